"""Times each stage of a request alone, in one process: `python -m bench.stages --family openai`.

Each stage runs on prepared inputs, after a burn-in; the figure is the median of a time window. On a
GPU the time includes the device's work.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import statistics
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import orjson
import torch

from backends.embed import compute, embed
from backends.model import EncodeParams, Model
from bench import families, inputs, wire
from bench.bare_worker import load
from bench.report import table
from config import Settings
from inference.images.decoder import ImageDecoder, decode_base64
from web.endpoints.clip import Vectorize

SEED = 0
BATCHES = (1, 4, 8, 16, 32)
_BURN_IN = 2
_MIN_RUNS = 3
_READER = ImageDecoder(inputs.LIMITS)


class Stage(NamedTuple):
    """A stage: a function that processes `items` inputs."""

    name: str
    run: Callable[[], object]
    items: int = 1


def main() -> None:
    """Print the time of every stage."""
    parser = argparse.ArgumentParser("bench.stages", description="Time each stage alone.")
    parser.add_argument("--family", choices=families.FAMILIES, default=families.DEFAULT)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each stage")
    options = parser.parse_args()
    folder = families.model_folder(options.family)
    model = load(folder)
    stages = itertools.chain(_http(model), _images(model), _texts(model))
    rows = [_row(stage, median_ms(stage, options.seconds)) for stage in stages]
    print(table(("stage", "ms", "ms an item"), rows))


def median_ms(stage: Stage, seconds: float) -> float:
    """Return the median time of a stage in milliseconds."""
    for _ in range(_BURN_IN):
        stage.run()
    times: list[float] = []
    while sum(times) < seconds or len(times) < _MIN_RUNS:
        _synchronise()
        started_s = time.perf_counter()
        stage.run()
        _synchronise()
        times.append(time.perf_counter() - started_s)
    return 1e3 * statistics.median(times)


def _http(model: Model) -> Iterator[Stage]:
    api = wire.reference()
    bodies = {
        "image": api.image_request(inputs.SMALL, 0).body,
        "text": api.text_request(inputs.text(0)).body,
    }
    endpoint = Vectorize(Settings(), model.info)
    for kind, body in bodies.items():
        yield Stage(f"parse a body, {kind}", partial(endpoint.parse, body))
    vectors = np.random.default_rng(SEED).normal(size=(1, model.info.dimensions))
    answer = {"textVectors": [], "imageVectors": vectors.astype(np.float32)}
    numpy_too = orjson.OPT_SERIALIZE_NUMPY
    yield Stage("serialize a vector", partial(orjson.dumps, answer, option=numpy_too))


def _images(model: Model) -> Iterator[Stage]:
    for size in inputs.SIZES:
        yield from _one_image(model, size)
    tower = model.towers["image"]
    images = [tower.processor.prepare(one, EncodeParams()) for one in _decoded(inputs.SMALL)]
    for count in BATCHES:
        batch = [images[i % len(images)] for i in range(count)]
        if count > 1:
            yield Stage(f"stack {count}", partial(tower.processor.collate, batch), count)
        yield Stage(f"stack and image forward, {count}", partial(compute, tower, batch), count)


def _one_image(model: Model, size: tuple[int, int]) -> Iterator[Stage]:
    name = f"{size[0]}x{size[1]}"
    encoded = inputs.image_b64(size, 0).decode("ascii")
    file, image = b64decode(encoded), _decoded(size)[0]
    prepare = model.towers["image"].processor.prepare
    yield Stage(f"decode base64, {name}", partial(decode_base64, encoded, inputs.LIMITS.max_bytes))
    yield Stage(f"digest, {name}", lambda: hashlib.sha256(file).digest())
    yield Stage(f"decode JPEG, {name}", partial(_READER.open, file))
    yield Stage(f"preprocess, {name}", partial(prepare, image, EncodeParams()))


def _texts(model: Model) -> Iterator[Stage]:
    tower = model.towers["text"]
    numbers = itertools.count()
    yield Stage(
        "tokenize a text",
        lambda: tower.processor.prepare(inputs.text(next(numbers)), EncodeParams()),
    )
    for count in BATCHES:
        batch = [inputs.text(number) for number in range(count)]
        yield Stage(f"tokenize and text forward, {count}", partial(embed, tower, batch), count)


def _decoded(size: tuple[int, int]) -> list[Any]:
    count = len(inputs.jpegs(*size))
    return [_READER.open(b64decode(inputs.image_b64(size, n))) for n in range(count)]


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _row(stage: Stage, ms: float) -> tuple[str, str, str]:
    return stage.name, f"{ms:.3f}", f"{ms / stage.items:.3f}"


if __name__ == "__main__":
    main()

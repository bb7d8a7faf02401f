"""Times each stage of a request alone, in one process: `python -m bench.stages --family openai`.

A stage is run on inputs that are ready for it, after a burn-in; the figure is the median over a
window. On a GPU the clock stops when the device has finished.
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
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import torch

from backends.model import EmbeddingBackend
from bench import families, inputs, wire
from bench.bare_worker import load
from bench.report import table
from inference.images.reader import ImageReader, decode_base64
from web.endpoints.clip import parse

SEED = 0
BATCHES = (1, 4, 8, 16, 32)
_BURN_IN = 2
_LEAST_RUNS = 3
_READER = ImageReader(inputs.LIMITS)


class Stage(NamedTuple):
    """A piece of work on `items` inputs."""

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
    backend = load(folder)
    stages = itertools.chain(_http(backend), _images(backend), _texts(backend, folder))
    rows = [_row(stage, median_ms(stage, options.seconds)) for stage in stages]
    print(table(("stage", "ms", "ms an item"), rows))


def median_ms(stage: Stage, seconds: float) -> float:
    """Time one stage."""
    for _ in range(_BURN_IN):
        stage.run()
    times: list[float] = []
    while sum(times) < seconds or len(times) < _LEAST_RUNS:
        _synchronise()
        started_s = time.perf_counter()
        stage.run()
        _synchronise()
        times.append(time.perf_counter() - started_s)
    return 1e3 * statistics.median(times)


def _http(backend: EmbeddingBackend) -> Iterator[Stage]:
    api = wire.reference()
    bodies = {"image": api.image_request(inputs.SMALL, 0).body, "text": api.text_request(0).body}
    for kind, body in bodies.items():
        yield Stage(f"parse a body, {kind}", partial(parse, body))
    vectors = np.random.default_rng(SEED).normal(size=(1, backend.info.dimensions))
    answer = {"textVectors": [], "imageVectors": vectors.astype(np.float32)}
    numpy_too = orjson.OPT_SERIALIZE_NUMPY
    yield Stage("serialise a vector", partial(orjson.dumps, answer, option=numpy_too))


def _images(backend: EmbeddingBackend) -> Iterator[Stage]:
    for size in inputs.SIZES:
        yield from _one_image(backend, size)
    pixels = [backend.preprocess(image) for image in _decoded(inputs.SMALL)]
    for count in BATCHES:
        batch = [pixels[i % len(pixels)] for i in range(count)]
        if count > 1:
            yield Stage(f"stack {count}", partial(np.stack, batch), count)
        yield Stage(
            f"stack and image forward, {count}", partial(backend.encode_image, batch), count
        )


def _one_image(backend: EmbeddingBackend, size: tuple[int, int]) -> Iterator[Stage]:
    name = f"{size[0]}x{size[1]}"
    encoded = inputs.image_b64(size, 0).decode("ascii")
    file, image = b64decode(encoded), _decoded(size)[0]
    yield Stage(f"decode base64, {name}", partial(decode_base64, encoded, inputs.LIMITS.max_bytes))
    yield Stage(f"digest, {name}", lambda: hashlib.sha256(file).digest())
    yield Stage(f"decode JPEG, {name}", partial(_READER.open, file))
    yield Stage(f"preprocess, {name}", partial(backend.preprocess, image))


def _texts(backend: EmbeddingBackend, folder: Path) -> Iterator[Stage]:
    tokenize = _tokenizer(folder)
    numbers = itertools.count()
    yield Stage("tokenise a text", lambda: tokenize([inputs.text(next(numbers))]))
    for count in BATCHES:
        batch = [inputs.text(number) for number in range(count)]
        run = partial(backend.encode_text, batch)
        yield Stage(f"tokenise and text forward, {count}", run, count)


def _tokenizer(folder: Path) -> Callable[[list[str]], Any]:
    if (folder / "openclip").is_dir():
        import open_clip

        tokenize: Callable[[list[str]], Any] = open_clip.get_tokenizer("ViT-B-32")
        return tokenize
    from transformers import AutoTokenizer

    parts = ("openai_clip_processor", "text", "siglip")
    found = next(folder / part for part in parts if (folder / part).is_dir())
    auto: Callable[[list[str]], Any] = AutoTokenizer.from_pretrained(found, local_files_only=True)
    return auto


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

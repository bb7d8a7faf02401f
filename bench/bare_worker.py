"""The bare model in a process of its own: no HTTP, no queue, no cache.

    echo '{"modality": "images", "batch": 16, "seconds": 3}' | python -m bench.bare_worker FOLDER

Each input line describes a loop; the answer is a line of figures. Of this project it uses
`ImageDecoder` and the model.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from backends.embed import compute, embed
from backends.load import load_model
from backends.model import EncodeParams, Model, ModelInput, Tower
from bench import inputs
from bench.bare import Loop, LoopResult
from config import Settings, read
from inference.images.decoder import ImageDecoder

_BURN_IN_BATCHES = 1
_MIN_BATCHES = 2
_READER = ImageDecoder(inputs.LIMITS)


def load(folder: Path) -> Model:
    """Load a model with the settings of the environment, as the service does."""
    return load_model(read(Settings).model_copy(update={"models_dir": folder}))[0]


class BareModel:
    """Runs loops on a loaded model."""

    def __init__(self, model: Model) -> None:
        self._towers = model.towers

    def run(self, loop: Loop) -> LoopResult:
        """Run a loop: a burn-in, then batches until the time is over."""
        with ThreadPoolExecutor(loop.threads) as pool:
            step = self._step(loop, pool)
            numbers = itertools.count()
            for _ in range(_BURN_IN_BATCHES):
                step(next(numbers))
            seconds: list[float] = []
            while sum(seconds) < loop.seconds or len(seconds) < _MIN_BATCHES:
                started_s = time.perf_counter()
                step(next(numbers))
                seconds.append(time.perf_counter() - started_s)
        rate_per_s = loop.batch * len(seconds) / sum(seconds)
        return LoopResult(rate_per_s, 1e3 * statistics.median(seconds))

    def _step(self, loop: Loop, pool: ThreadPoolExecutor) -> Callable[[int], object]:
        """Return a function that computes batch `number`, up to vectors on the CPU."""
        if loop.modality != "images":
            embed_texts = partial(_embed_apart if loop.is_apart else embed, self._towers["text"])
            words = inputs.WORDS[loop.modality]
            return lambda number: embed_texts(
                [words(number * loop.batch + i) for i in range(loop.batch)]
            )
        tower = self._towers["image"]
        files = _files(loop.size)
        each: Any = map if loop.threads == 1 else pool.map

        def decode(file: bytes) -> ModelInput:
            return tower.processor.prepare(_READER.open(file), EncodeParams())

        def step(number: int) -> object:
            batch = [files[(number * loop.batch + i) % len(files)] for i in range(loop.batch)]
            return compute(tower, list(each(decode, batch)))

        return step


def _embed_apart(tower: Tower, texts: Sequence[str]) -> None:
    params = tower.processor.resolve(EncodeParams())
    for text in texts:
        for part in tower.processor.split(text, params).items:
            compute(tower, [tower.processor.prepare(part, params)])


def _files(size: Sequence[int]) -> list[bytes]:
    width, height = size
    count = len(inputs.jpegs(width, height))
    return [b64decode(inputs.image_b64((width, height), number)) for number in range(count)]


def main() -> None:
    """Run the loops that standard input describes."""
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # libraries may print
        model = BareModel(load(Path(sys.argv[1])))
        print("{}", file=answers, flush=True)
        for line in sys.stdin:
            result = model.run(Loop(**json.loads(line)))
            print(json.dumps(result._asdict()), file=answers, flush=True)


if __name__ == "__main__":
    main()

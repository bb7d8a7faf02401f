"""The driver's side of the bare model: loops, and the process that runs them.

There are three loops. "Bare loop": batches of the best size, with the service's runtime and
precision; it is the ceiling. "Lone": the same in batches of one. "One at a time": batches of one by
eager torch in float32, each decoded and then computed, with a pass for each sentence, like a
service with one lock around a request.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from bench import inputs
from bench.service import ROOT, log_path, stop
from machine import usable_cores

Modality: TypeAlias = Literal["images", "texts", "passages"]


@dataclass(frozen=True)
class Loop:
    """A loop of decoding, preprocessing and computing.

    Attributes:
        batch: items in a forward pass.
        seconds: minimum duration.
        threads: number of threads that decode a batch; with 1 the loop itself decodes.
        size: width and height of the images.
        is_apart: whether each sentence of a text has a forward pass of its own.
    """

    modality: Modality
    batch: int
    seconds: float
    threads: int = 1
    size: Sequence[int] = inputs.SMALL
    is_apart: bool = False


# Settings of "one at a time", independent of the service's.
ONE_AT_A_TIME = {"RUNTIME": "torch", "PRECISION": "float32"}


class LoopResult(NamedTuple):
    """The result of a loop: items a second, and the median time of a batch."""

    rate_per_s: float
    median_ms: float


class BareModel:
    """A process that runs loops of the bare model."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, loop: Loop) -> LoopResult:
        """Run a loop in the process.

        Raises:
            RuntimeError: the process has ended.
        """
        return LoopResult(**self._ask(json.dumps(asdict(loop))))

    def best(self, loop: Loop, batches: Sequence[int]) -> Loop:
        """Return the fastest loop: by batch size, then by the number of decoding threads."""
        cores = usable_cores() if loop.modality == "images" else 1
        batch = self._fastest([replace(loop, batch=batch, threads=cores) for batch in batches])
        return self._fastest([batch, replace(batch, threads=1)]) if cores > 1 else batch

    def _fastest(self, loops: Sequence[Loop]) -> Loop:
        return max(loops, key=lambda loop: self.run(loop).rate_per_s)

    def wait_until_loaded(self) -> None:
        """Wait for the model."""
        self._answer()

    def _ask(self, line: str) -> dict[str, float]:
        if self._process.stdin is None:
            raise RuntimeError("This is a bug.")
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, float]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError(f"the bare model's process ended; see {log_path('bare')}")
        answer: dict[str, float] = json.loads(line)
        return answer


@contextmanager
def bare_model(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[BareModel]:
    """Load a model into a process of its own, with the settings."""
    with log_path("bare").open("a") as log:
        process = subprocess.Popen(
            (sys.executable, "-m", "bench.bare_worker", str(folder)),
            cwd=ROOT,
            env={**os.environ, **(settings or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        model = BareModel(process)
        model.wait_until_loaded()
        yield model
    finally:
        stop(process)
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()

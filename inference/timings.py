"""Where the time of a request, or of one of its inputs, goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, TypeAlias, get_args

from typing_extensions import override

# In the order in which a request passes them:
#   read        receive the body and parse it
#   queue       wait: for a thread, for the model, or for the same input of another request
#   decode      base64 and image file to pixels
#   preprocess  pixels to the size of the model
#   tokenise    text to token ids
#   encode      the forward pass of the batch that the item was in
#   serialise   vectors to JSON
Stage: TypeAlias = Literal[
    "read", "queue", "decode", "preprocess", "tokenise", "encode", "serialise"
]
STAGES: tuple[Stage, ...] = get_args(Stage)


class Timings:
    """Seconds that a request, or one of its items, spent in each stage.

    Items are worked on side by side, so a request counts the stages of its slowest item only: then
    the stages add up to what the caller waited for.
    """

    __slots__ = ("_own_s", "_slowest_s")

    def __init__(self) -> None:
        self._own_s: dict[Stage, float] = {}
        self._slowest_s: dict[Stage, float] = {}

    def add(self, stage: Stage, seconds: float) -> None:
        """Add to a stage."""
        self._own_s[stage] = self._own_s.get(stage, 0.0) + seconds

    def measure(self, stage: Stage) -> AbstractContextManager[None]:
        """Add what happens inside to a stage."""
        return _Measured(self, stage)

    def waiting(self) -> AbstractContextManager[None]:
        """Count what happens inside as waiting, but for what is counted in another stage."""
        return _Waiting(self)

    @contextmanager
    def item(self) -> Iterator[Timings]:
        """Take the time of one item; whatever it does not spend in another stage, it waits."""
        item = Timings()
        try:
            with item.waiting():
                yield item
        finally:
            if item.counted_s() > sum(self._slowest_s.values()):
                self._slowest_s = item.stages()

    @contextmanager
    def step(self) -> Iterator[Timings]:
        """Take the time of a step whose items are worked on side by side: the slowest one's."""
        step = Timings()
        try:
            yield step
        finally:
            for stage, seconds in step.stages().items():
                self.add(stage, seconds)

    def counted_s(self) -> float:
        """Return the seconds of all stages until now."""
        return sum(self._own_s.values()) + sum(self._slowest_s.values())

    def stages(self) -> dict[Stage, float]:
        """Return the seconds of each stage that was passed, in their order."""
        own_s, slowest_s = self._own_s, self._slowest_s
        both = {stage: own_s.get(stage, 0.0) + slowest_s.get(stage, 0.0) for stage in STAGES}
        return {stage: seconds for stage, seconds in both.items() if seconds}


# Classes, as every request passes several of these, and a generator costs three times as much.


class _Measured(AbstractContextManager[None]):
    __slots__ = ("_stage", "_started_s", "_timings")

    def __init__(self, timings: Timings, stage: Stage) -> None:
        self._timings = timings
        self._stage = stage

    @override
    def __enter__(self) -> None:
        self._started_s = time.perf_counter()

    @override
    def __exit__(self, *_: object) -> None:
        self._timings.add(self._stage, time.perf_counter() - self._started_s)


class _Waiting(AbstractContextManager[None]):
    __slots__ = ("_counted_s", "_started_s", "_timings")

    def __init__(self, timings: Timings) -> None:
        self._timings = timings

    @override
    def __enter__(self) -> None:
        self._started_s = time.perf_counter()
        self._counted_s = self._timings.counted_s()

    @override
    def __exit__(self, *_: object) -> None:
        elapsed_s = time.perf_counter() - self._started_s
        counted_s = self._timings.counted_s() - self._counted_s
        self._timings.add("queue", max(0.0, elapsed_s - counted_s))

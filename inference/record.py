"""The record of one request: what it brought, where its time went, and how it ended.

The header `Server-Timing`, the metrics and the log read the same record. It knows no HTTP but the
number of a status, and no model.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from errors import Reason

# In the order in which a request passes them:
#   read        receive the body and parse it
#   queue       wait: for a thread, for the model, or for the same input of another request
#   decode      base64 and image file to pixels
#   preprocess  pixels to the size of the model
#   encode      the forward pass of the batch that the item was in
#   serialise   vectors to JSON
Stage: TypeAlias = Literal["read", "queue", "decode", "preprocess", "encode", "serialise"]
STAGES: tuple[Stage, ...] = get_args(Stage)


class Timings:
    """Seconds that a request, or one of its items, spent in each stage.

    Items are worked on side by side, so a request counts the stages of its slowest item only: then
    the stages add up to what the caller waited for.
    """

    __slots__ = ("_own_s", "_slowest_s")

    def __init__(self) -> None:
        self._own_s: dict[Stage, float] = dict.fromkeys(STAGES, 0.0)
        self._slowest_s: dict[Stage, float] = {}

    def add(self, stage: Stage, seconds: float) -> None:
        """Add to a stage."""
        self._own_s[stage] += seconds

    @contextmanager
    def measure(self, stage: Stage) -> Iterator[None]:
        """Add what happens inside to a stage."""
        started_s = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - started_s)

    @contextmanager
    def item(self) -> Iterator[Timings]:
        """Take the time of one item; whatever it does not spend in another stage, it waits."""
        item = Timings()
        started_s = time.perf_counter()
        try:
            yield item
        finally:
            worked_s = sum(item._own_s.values())
            item.add("queue", max(0.0, time.perf_counter() - started_s - worked_s))
            self._keep_if_slowest(item._own_s)

    def _keep_if_slowest(self, item_s: dict[Stage, float]) -> None:
        if sum(item_s.values()) > sum(self._slowest_s.values()):
            self._slowest_s = item_s

    def stages(self) -> dict[Stage, float]:
        """Return the seconds of each stage that was passed."""
        both = {
            stage: own_s + self._slowest_s.get(stage, 0) for stage, own_s in self._own_s.items()
        }
        return {stage: seconds for stage, seconds in both.items() if seconds}


@dataclass(slots=True)
class Record:
    """One request.

    Attributes:
        request_id: by which its line in the log and its answer are known.
        what: its method and path.
        texts: how many it brought.
        images: how many it brought.
        timings: where its time went.
        status: what it was answered, 0 before that.
        refused: why it was not answered with vectors, in a word; None where it was.
        sentence: the same as the client was told it.
        total_s: seconds from its arrival to its answer.
        stages_s: seconds of each stage that it passed until then.
    """

    request_id: str = ""
    what: str = ""
    texts: int = 0
    images: int = 0
    timings: Timings = field(default_factory=Timings)
    status: int = 0
    refused: Reason | None = None
    sentence: str = ""
    total_s: float = 0.0
    stages_s: dict[Stage, float] = field(default_factory=dict)
    _started_s: float = field(default_factory=time.perf_counter)

    def end(self, status: int) -> None:
        """Note the answer."""
        self.status = status
        self.total_s = time.perf_counter() - self._started_s
        self.stages_s = self.timings.stages()

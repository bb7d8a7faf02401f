"""Logs the load: one line a minute while there are requests."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping

from inference.capacity import BatchStats
from web.record import RequestRecord

logger = logging.getLogger(__name__)


class LoadLog:
    """Counts requests and batches, and logs the counts since the last line.

    Args:
        queue_items: function that returns the number of waiting items by modality.
        model: the name of the model, for the line; empty if it has none.
        clock: function that returns the time in seconds.
    """

    def __init__(
        self,
        queue_items: Callable[[], Mapping[str, int]],
        model: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue_items = queue_items
        self._model = model
        self._clock = clock
        self._start()

    def _start(self) -> None:
        self._since_s = self._clock()
        self._requests = 0
        self._items = 0
        self._batches: Counter[str] = Counter()
        self._batched_items: Counter[str] = Counter()

    def observe_request(self, record: RequestRecord) -> None:
        """Count an answered request of the model."""
        self._requests += 1
        self._items += record.items.total()

    def observe_batch(self, modality: str, stats: BatchStats) -> None:
        """Count a forward pass."""
        self._batches[modality] += 1
        self._batched_items[modality] += stats.size

    def line(self) -> str | None:
        """Return the line for the time since the last call; None if there were no requests."""
        seconds = max(self._clock() - self._since_s, 1e-9)
        line = self._sum_up(seconds) if self._requests else None
        self._start()
        return line

    def _sum_up(self, seconds: float) -> str:
        parts = [f"{self._requests / seconds:.1f} requests/s, {self._items / seconds:.1f} items/s"]
        for modality, batches in sorted(self._batches.items()):
            parts.append(
                f"{modality} batches of {self._batched_items[modality] / batches:.1f} on average"
            )
        waiting = ", ".join(
            f"{count} {modality}" for modality, count in self._queue_items().items()
        )
        return "; ".join([*parts, f"queued now: {waiting}"])

    async def run(self, every_s: float = 60) -> None:
        """Log a line every `every_s` seconds, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            if line := self.line():
                logger.info("Load%s: %s", f" of {self._model}" if self._model else "", line)

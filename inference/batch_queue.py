"""What waits for a model, and which of it makes the next batch.

A lone item is a batch at once; what arrives while one is computed is the next. Only right after a
batch it waits a moment, for those who were just answered to come back: callers who ask one thing
after the other would otherwise fall into two crowds that take turns, in batches of half the size.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

# Longest wait for those who come back, as a share of the time that the last batch took: what it can
# cost is this share of the throughput, what it can win is twice the batch.
LINGER = 0.1

T = TypeVar("T")
R = TypeVar("R")


class Computed(NamedTuple, Generic[R]):
    """A result, and the seconds of the pass that it came from."""

    result: R
    run_s: float


@dataclass(eq=False, slots=True)
class Entry(Generic[T, R]):
    """An item that waits, and the future that its caller awaits."""

    item: T
    future: asyncio.Future[Computed[R]]


class BatchQueue(Generic[T, R]):
    """Waits in line, in the order of arrival.

    Args:
        max_batch_size: most items in one batch.
    """

    def __init__(self, max_batch_size: int) -> None:
        self.max_batch_size = max_batch_size
        self._entries: deque[Entry[T, R]] = deque()
        self._arrival = asyncio.Event()
        self._company = 0  # callers who were there when the last batch ended
        self._linger_until_s = 0.0  # in the time of time.perf_counter

    def append(self, entry: Entry[T, R]) -> None:
        """Let an item wait for a batch."""
        self._entries.append(entry)
        self._arrival.set()

    async def next_batch(self) -> list[Entry[T, R]]:
        """Wait for the next batch: at least one item, whose caller is still there."""
        while True:
            await self._arrival.wait()
            await self._linger()
            if batch := self._take():
                return batch

    def batch_ended(self, size: int, run_s: float) -> None:
        """Hear that a batch of a runner was answered, and how long it was computed."""
        self._company = min(size + len(self._entries), self.max_batch_size)
        self._linger_until_s = time.perf_counter() + LINGER * run_s

    async def _linger(self) -> None:
        patience_s = self._linger_until_s - time.perf_counter()
        if patience_s > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    while len(self._entries) < self._company:
                        self._arrival.clear()
                        await self._arrival.wait()

    def _take(self) -> list[Entry[T, R]]:
        batch: list[Entry[T, R]] = []
        while self._entries and len(batch) < self.max_batch_size:
            entry = self._entries.popleft()
            if not entry.future.done():  # done already: its caller has gone
                batch.append(entry)
        if self._entries:
            self._arrival.set()  # for the next runner
        else:
            self._arrival.clear()
        return batch

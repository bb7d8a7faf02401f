"""What waits for a model, and which of it makes the next batch.

A lone item is a batch at once; what arrives while one is computed is the next, in fair turns. Only
right after a batch it lingers, for those who were just answered to come back: callers who ask one
thing after the other would otherwise fall into two crowds that take turns, in batches of half the
size, each computed while the event loop wants the same cores to answer the other.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Hashable, Sequence
from contextlib import suppress
from typing import Generic, NamedTuple, TypeVar

from inference.fair_queue import Entry, FairQueue, Party

# Of the time that the last batch took: the longest wait for the next of those who come back, and
# for all of them together. What the first can cost is that share of the throughput; the second
# needs someone to come all the time, and what it can win is twice the batch.
LINGER = 0.2
MOST_LINGER = 1.0
# Of the event loop, before nobody is said to come: who does may stand in a socket while it answers.
_PASSES = 3

T = TypeVar("T")
R = TypeVar("R")


class Computed(NamedTuple, Generic[R]):
    """A result, and the seconds of the pass that it came from."""

    result: R
    run_s: float


class Job(Entry, Generic[T, R]):
    """An item that waits, and the future that its caller awaits."""

    __slots__ = ("future", "item")

    def __init__(
        self,
        item: T,
        future: asyncio.Future[Computed[R]],
        party: Party,
        bucket: Hashable = 0,
        cost: int = 1,
    ) -> None:
        super().__init__(party, bucket, cost)
        self.item = item
        self.future = future


class BatchQueue(Generic[T, R]):
    """Waits in line, in fair turns.

    Args:
        max_batch_size: most items in one batch.

    Attributes:
        max_cost: most that a batch may cost; one item alone may cost more.
    """

    def __init__(self, max_batch_size: int) -> None:
        self.max_batch_size = max_batch_size
        self.max_cost = math.inf
        self._queue: FairQueue[Job[T, R]] = FairQueue()
        self._arrival = asyncio.Event()
        self._free = 0  # runners that ask for a batch
        self._company = 0  # callers who were there when the last batch ended
        self._company_is_queries = False
        self._last_run_s = 0.0
        self._ended_s = 0.0  # in the time of time.perf_counter

    def put(self, job: Job[T, R]) -> None:
        """Let an item wait for a batch, as long as its caller does."""
        self._queue.put(job)
        job.future.add_done_callback(lambda _: self._queue.remove(job))
        self._arrival.set()

    async def next_batch(self) -> list[Job[T, R]]:
        """Wait for the next batch: at least one item, whose caller is still there."""
        self._free += 1
        try:
            while True:
                await self._arrival.wait()
                await self._linger()
                if batch := self._take():
                    return batch
        finally:
            self._free -= 1

    def batch_ended(self, batch: Sequence[Job[T, R]], run_s: float) -> None:
        """Hear that a batch of a runner was answered, and how long it was computed."""
        company = 0 if batch[0].is_alone else len(batch) + len(self._queue)
        self._company = min(company, self.max_batch_size)
        self._company_is_queries = batch[0].party.is_query
        self._last_run_s, self._ended_s = run_s, time.perf_counter()

    async def _linger(self) -> None:
        until_s = self._ended_s + MOST_LINGER * self._last_run_s
        while self._is_company_missed and time.perf_counter() < until_s:
            if not await self._someone_comes(LINGER * self._last_run_s):
                return

    @property
    def _is_company_missed(self) -> bool:
        if len(self._queue) >= self._company:
            return False
        if self._free > 1:  # a device stands still: two had rather share the company
            return False
        # Whatever waits: those who come back may be due before it. Nothing is due before a query.
        return self._company_is_queries or not self._queue.is_query_next

    async def _someone_comes(self, within_s: float) -> bool:
        self._arrival.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                return await self._arrival.wait()
        for _ in range(_PASSES):
            await asyncio.sleep(0)
        return self._arrival.is_set()

    def _take(self) -> list[Job[T, R]]:
        batch = self._queue.take(self.max_batch_size, self.max_cost)
        if self._queue:
            self._arrival.set()  # for the next runner
        else:
            self._arrival.clear()
        return batch

"""Batches across callers: whoever waits while a batch is computed shares the next one.

An idle batcher runs a lone item at once; a busy one collects what arrives, so that batches grow
with the load. Only right after a batch does it wait a moment, for those who were just answered to
come back: callers who ask one thing after the other would else fall into two crowds that take
turns, in batches of half the size. It knows no HTTP, no images and no model: items go in, results
come out.

    submit -> queue -> (a runner is free) -> batch -> run_batch in the runner's thread -> results
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from errors import BackendError, DeviceLostError, DeviceMemoryError

logger = logging.getLogger(__name__)

# Longest wait for those who come back, as a share of the time that the last batch took: what it can
# cost is this share of the throughput, what it can win is twice the batch.
PATIENCE = 0.1

T = TypeVar("T")
R = TypeVar("R")
# A result for each item, in the items' order; an exception in a result's place fails that item.
RunBatch: TypeAlias = Callable[[Sequence[T]], Sequence[R | Exception]]


@dataclass(frozen=True, slots=True)
class BatchStats:
    """What one batch was like.

    Attributes:
        size: number of items in it.
        queued_s: seconds that its first item waited for it.
        run_s: seconds that it was computed.
    """

    size: int
    queued_s: float
    run_s: float


class BatchObserver(Protocol):
    """Hears of every batch that was run; metrics implement it."""

    def __call__(self, stats: BatchStats, /) -> None:
        """Take note of a batch."""
        ...


def ignore(_stats: BatchStats) -> None:
    """Observe nothing."""


@dataclass(eq=False, slots=True)
class _Entry(Generic[T, R]):
    item: T
    future: asyncio.Future[R]
    queued_at_s: float


class Batcher(Generic[T, R]):
    """Coalesces items of many callers into batches.

    Args:
        runners: functions that compute a batch, each in a thread of its own, side by side.
        max_batch_size: most items in one batch.
        name: of the threads.
        observer: hears of every batch.
    """

    def __init__(
        self,
        runners: Sequence[RunBatch[T, R]],
        *,
        max_batch_size: int,
        name: str,
        observer: BatchObserver = ignore,
    ) -> None:
        self._runners = runners
        self._max_batch_size = max_batch_size
        self._name = name
        self._observer = observer
        self._queue: deque[_Entry[T, R]] = deque()
        self._arrival = asyncio.Event()
        self._company = 0  # callers who were there when the last batch ended
        self._patient_until_s = 0.0  # in the time of time.perf_counter
        self._tasks: list[asyncio.Task[None]] = []

    def __len__(self) -> int:
        """Count the items that wait for a batch."""
        return len(self._queue)

    async def submit(self, item: T) -> R:
        """Wait for the result of one item; cancelling the wait takes the item out of the queue.

        Raises:
            BackendError: the item could not be computed, not even alone.
        """
        if not self._tasks:
            self._start([[] for _ in self._runners])
        entry = self._entry(item)
        self._queue.append(entry)
        self._arrival.set()
        return await entry.future

    async def warm_up(self, item: T, sizes: Sequence[int]) -> None:
        """Let every runner compute batches of these sizes, in its thread, before anything else.

        Raises:
            BackendError: the item could not be computed.
        """
        warm_ups = [[self._batch_of(item, size) for size in sizes] for _ in self._runners]
        self._start(warm_ups)
        entries = (entry for batches in warm_ups for batch in batches for entry in batch)
        await asyncio.gather(*(entry.future for entry in entries))

    def _batch_of(self, item: T, size: int) -> list[_Entry[T, R]]:
        return [self._entry(item) for _ in range(size)]

    def _entry(self, item: T) -> _Entry[T, R]:
        return _Entry(item, asyncio.get_running_loop().create_future(), time.perf_counter())

    async def aclose(self) -> None:
        """Stop; items that still wait are cancelled."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._queue:
            self._queue.popleft().future.cancel()

    def _start(self, warm_ups: Sequence[Sequence[list[_Entry[T, R]]]]) -> None:
        self._tasks = [
            asyncio.create_task(self._serve(run_batch, batches), name=f"{self._name}-{index}")
            for index, (run_batch, batches) in enumerate(zip(self._runners, warm_ups, strict=True))
        ]

    async def _serve(
        self, run_batch: RunBatch[T, R], warm_ups: Sequence[list[_Entry[T, R]]]
    ) -> None:
        with ThreadPoolExecutor(1, thread_name_prefix=self._name) as thread:
            for batch in warm_ups:
                await self._run(run_batch, thread, batch)
            while True:
                await self._arrival.wait()
                await self._wait_for_company()
                batch = self._next_batch()
                if batch:
                    await self._run(run_batch, thread, batch)

    async def _wait_for_company(self) -> None:
        patience_s = self._patient_until_s - time.perf_counter()
        if patience_s > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    while len(self._queue) < self._company:
                        self._arrival.clear()
                        await self._arrival.wait()

    def _next_batch(self) -> list[_Entry[T, R]]:
        batch: list[_Entry[T, R]] = []
        while self._queue and len(batch) < self._max_batch_size:
            entry = self._queue.popleft()
            if not entry.future.done():  # done already: its caller has gone
                batch.append(entry)
        if self._queue:
            self._arrival.set()  # for the next runner
        else:
            self._arrival.clear()
        return batch

    async def _run(
        self, run_batch: RunBatch[T, R], thread: ThreadPoolExecutor, batch: list[_Entry[T, R]]
    ) -> None:
        started_s = time.perf_counter()
        await self._compute(run_batch, thread, batch)
        ended_s = time.perf_counter()
        self._company = min(len(batch) + len(self._queue), self._max_batch_size)
        self._patient_until_s = ended_s + PATIENCE * (ended_s - started_s)
        self._observer(
            BatchStats(len(batch), started_s - batch[0].queued_at_s, ended_s - started_s)
        )

    async def _compute(
        self, run_batch: RunBatch[T, R], thread: ThreadPoolExecutor, batch: list[_Entry[T, R]]
    ) -> None:
        """Compute a batch; one that fails in halves, so that what is at fault fails alone."""
        items = [entry.item for entry in batch]
        half = len(batch) // 2
        try:
            results = await asyncio.get_running_loop().run_in_executor(thread, run_batch, items)
            _deliver(batch, results)
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to this batch's callers
            if len(batch) == 1 or isinstance(error, DeviceLostError):
                _fail(batch, error)
                return
            if isinstance(error, DeviceMemoryError):
                self._limit_to(half)
        else:
            return
        # Outside of `except`: the error's traceback holds what the whole batch left in memory.
        await self._compute(run_batch, thread, batch[:half])
        await self._compute(run_batch, thread, batch[half:])

    def _limit_to(self, size: int) -> None:
        if size < self._max_batch_size:  # what did not fit will not fit
            self._max_batch_size = size
            logger.warning(
                "The device's memory is too small for the %s batch: from now on at most %d items",
                self._name,
                size,
            )


def _deliver(batch: Sequence[_Entry[T, R]], results: Sequence[R | Exception]) -> None:
    if len(results) != len(batch):
        raise BackendError(f"{len(results)} results for {len(batch)} items. This is a bug.")
    for entry, result in zip(batch, results, strict=True):
        if entry.future.done():
            continue
        if isinstance(result, Exception):
            entry.future.set_exception(result)
        else:
            entry.future.set_result(result)


def _fail(batch: Sequence[_Entry[T, R]], error: Exception) -> None:
    for entry in batch:
        if not entry.future.done():
            entry.future.set_exception(error)

"""Batches across callers: whoever waits while a batch is computed shares the next one.

There is no timer. An idle batcher runs a lone item at once; a busy one collects what arrives, so
that batches grow with the load. It knows no HTTP, no images and no model: items go in, results come
out.

    submit -> queue -> (a runner is free) -> batch -> run_batch in the runner's thread -> results
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from inference.errors import BackendError

T = TypeVar("T")
R = TypeVar("R")
RunBatch: TypeAlias = Callable[[Sequence[T]], Sequence[R]]


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
        runners: functions that compute a batch, each in a thread of its own, side by side. A result
            for each item, in the items' order.
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
        self._tasks: list[asyncio.Task[None]] = []

    def __len__(self) -> int:
        """Count the items that wait for a batch."""
        return len(self._queue)

    async def submit(self, item: T) -> R:
        """Wait for the result of one item; cancelling the wait takes the item out of the queue.

        Raises:
            BackendError: the item's batch could not be computed.
        """
        if not self._tasks:
            self._start()
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._queue.append(_Entry(item, future, time.perf_counter()))
        self._arrival.set()
        return await future

    async def aclose(self) -> None:
        """Stop; items that still wait are cancelled."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._queue:
            self._queue.popleft().future.cancel()

    def _start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._serve(run_batch), name=f"{self._name}-{index}")
            for index, run_batch in enumerate(self._runners)
        ]

    async def _serve(self, run_batch: RunBatch[T, R]) -> None:
        with ThreadPoolExecutor(1, thread_name_prefix=self._name) as thread:
            while True:
                await self._arrival.wait()
                batch = self._next_batch()
                if batch:
                    await self._run(run_batch, thread, batch)

    def _next_batch(self) -> list[_Entry[T, R]]:
        batch: list[_Entry[T, R]] = []
        while self._queue and len(batch) < self._max_batch_size:
            entry = self._queue.popleft()
            if not entry.future.done():  # done already: its caller has gone
                batch.append(entry)
        if not self._queue:
            self._arrival.clear()
        return batch

    async def _run(
        self, run_batch: RunBatch[T, R], thread: ThreadPoolExecutor, batch: list[_Entry[T, R]]
    ) -> None:
        started_s = time.perf_counter()
        items = [entry.item for entry in batch]
        try:
            results = await asyncio.get_running_loop().run_in_executor(thread, run_batch, items)
            _deliver(batch, results)
        except Exception as error:  # noqa: BLE001 - whatever it is belongs to this batch's callers
            _fail(batch, error)
        ended_s = time.perf_counter()
        self._observer(
            BatchStats(len(batch), started_s - batch[0].queued_at_s, ended_s - started_s)
        )


def _deliver(batch: Sequence[_Entry[T, R]], results: Sequence[R]) -> None:
    if len(results) != len(batch):
        raise BackendError(f"{len(results)} results for {len(batch)} items. This is a bug.")
    for entry, result in zip(batch, results, strict=True):
        if not entry.future.done():
            entry.future.set_result(result)


def _fail(batch: Sequence[_Entry[T, R]], error: Exception) -> None:
    for entry in batch:
        if not entry.future.done():
            entry.future.set_exception(error)

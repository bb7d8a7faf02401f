"""Computes batches in a thread of its own, and answers every item of each.

    batch -> a pass in the thread -> a result or an error for each item -> its caller
               '-- it fails: each half is a pass of its own, until what is at fault is alone

Whatever a batch raises is that batch's failure. It knows no queue.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from errors import BackendError, DeviceLostError, DeviceMemoryError
from inference.batch_queue import Computed, Job
from inference.health import Monitor
from inference.observers import Observers
from inference.tasks import exception_of
from inference.worker_pool import WorkerPool

T = TypeVar("T")
R = TypeVar("R")
# A result for each item, in the items' order; an exception in a result's place fails that item.
RunBatch: TypeAlias = Callable[[Sequence[T]], Sequence[R | Exception]]


@dataclass(frozen=True, slots=True)
class BatchStats:
    """What one pass was like; a batch that fails takes several.

    Attributes:
        size: number of items in it.
        cost: of them together, in the lane's unit.
        run_s: seconds that it was computed.
        failed: whether it gave no results.
    """

    size: int
    run_s: float
    cost: int = 0
    failed: bool = False


@dataclass(slots=True)
class BatchReport:
    """How a batch went.

    Attributes:
        run_s: seconds that its passes were computed.
        succeeded: whether one of its items at least was.
        failure: the last error of an item that was not.
        fitting: most items that the device's memory may hold, where it did not hold all.
    """

    run_s: float = 0.0
    succeeded: bool = False
    failure: Exception | None = None
    fitting: int | None = None


@dataclass(frozen=True, slots=True)
class _Pass(Generic[R]):
    outcomes: list[R | Exception]
    run_s: float
    error: Exception | None = None  # of all its items


class Runner(Generic[T, R]):
    """Computes batches, one at a time.

    Args:
        name: of its thread.
        run_batch: computes a batch, in that thread.
        observers: are told of every pass.
        monitor: hears once how each batch went, after all of its items were answered.
    """

    def __init__(
        self,
        name: str,
        run_batch: RunBatch[T, R],
        observers: Observers[[BatchStats]],
        monitor: Monitor,
    ) -> None:
        self.monitor = monitor
        self._run_batch = run_batch
        self._observers = observers
        self._pool = WorkerPool(1, name, monitor)

    async def run(self, batch: Sequence[Job[T, R]]) -> BatchReport:
        """Compute a batch and answer its items: with a result, or with the error of that item."""
        report = BatchReport()
        parts = [batch]
        while parts:
            part = [job for job in parts.pop() if not job.future.done()]
            if part:
                parts += await self._run_part(part, report)
            if isinstance(report.failure, DeviceLostError):  # no other pass will do better
                _fail(batch, report.failure)
        if report.succeeded:
            self.monitor.batch_succeeded()
        elif report.failure:
            self.monitor.batch_failed(report.failure)
        return report

    async def _run_part(
        self, part: Sequence[Job[T, R]], report: BatchReport
    ) -> list[Sequence[Job[T, R]]]:
        """Compute a part of a batch, and return what of it is to be tried again.

        The error is forgotten here: its traceback holds what the whole part left in memory.
        """
        items = [job.item for job in part]
        done: _Pass[R] = await self._pool.run(_attempt, self._run_batch, items)
        cost = sum(job.cost for job in part)
        self._observers(BatchStats(len(part), done.run_s, cost, failed=done.error is not None))
        report.run_s += done.run_s
        if done.error is None:
            _deliver(part, done, report)
            return []
        half = len(part) // 2
        if isinstance(done.error, DeviceMemoryError) and half:
            report.fitting = half
        if not half or isinstance(done.error, DeviceLostError):
            report.failure = done.error
            _fail(part, done.error)
            return []
        return [part[half:], part[:half]]  # the last is tried first

    async def aclose(self) -> None:
        """Stop; a pass that still runs is given a moment to end."""
        await self._pool.aclose()


def _attempt(run_batch: RunBatch[T, R], items: Sequence[T]) -> _Pass[R]:
    """Compute a batch in the thread; never raises."""
    started_s = time.perf_counter()
    try:
        outcomes = _outcomes(run_batch, items)
    except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the batch's callers
        return _Pass([], time.perf_counter() - started_s, exception_of(error))
    return _Pass(outcomes, time.perf_counter() - started_s)


def _outcomes(run_batch: RunBatch[T, R], items: Sequence[T]) -> list[R | Exception]:
    outcomes = [
        exception_of(outcome) if isinstance(outcome, BaseException) else outcome
        for outcome in run_batch(items)
    ]
    if len(outcomes) != len(items):
        raise BackendError(f"{len(outcomes)} results for {len(items)} items. This is a bug.")
    return outcomes


def _deliver(part: Sequence[Job[T, R]], done: _Pass[R], report: BatchReport) -> None:
    for job, outcome in zip(part, done.outcomes, strict=True):
        if isinstance(outcome, Exception):
            report.failure = outcome
            _fail([job], outcome)
        else:
            report.succeeded = True
            if not job.future.done():
                job.future.set_result(Computed(outcome, done.run_s))


def _fail(batch: Sequence[Job[T, R]], error: Exception) -> None:
    for job in batch:
        if not job.future.done():
            job.future.set_exception(error)

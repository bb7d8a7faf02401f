"""Computes batches in a thread of its own, and answers every item of each.

    batch -> a forward pass in the thread -> a row or an error for each entry -> its item
               '-- it fails: each half is a forward pass, until the entry at fault is alone

Whatever a batch raises is that batch's failure. It knows no queue.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from backends.model import EmbeddingResult, ModelInput, Rows, Tower, Vector
from errors import BackendError, DeviceLostError, DeviceMemoryError
from inference.capacity import BatchStats
from inference.health import Monitor
from inference.observers import Observers
from inference.tasks import detached
from inference.work import QueueEntry
from inference.worker_pool import WorkerPool


@dataclass(slots=True)
class BatchReport:
    """How a batch went.

    Attributes:
        run_s: seconds that its forward passes were computed.
        succeeded: whether one of its items at least was.
        failure: the last error of an item that was not.
        fitting: most items that the device's memory may hold, where it did not hold all.
    """

    run_s: float = 0.0
    succeeded: bool = False
    failure: Exception | None = None
    fitting: int | None = None


@dataclass(frozen=True, slots=True)
class _Forward:
    """A forward pass as the thread hands it over."""

    began_s: float
    ended_s: float
    rows: Sequence[Vector | Exception] = field(default_factory=list)
    error: Exception | None = None  # of all its entries


class ModelWorker:
    """Computes batches of one tower on one device, one at a time.

    Args:
        name: of its thread.
        tower: that computes.
        observers: are told of every forward pass.
        monitor: hears once how each batch went, after all of its items were answered.
    """

    def __init__(
        self, name: str, tower: Tower, observers: Observers[[BatchStats]], monitor: Monitor
    ) -> None:
        self.monitor = monitor
        self._tower = tower
        self._observers = observers
        self._pool = WorkerPool(1, name, monitor)

    async def run(self, batch: Sequence[QueueEntry]) -> BatchReport:
        """Compute a batch and answer its items: with a row, or with the error of that item."""
        report = BatchReport()
        parts = [batch]
        while parts:
            part = [entry for entry in parts.pop() if not entry.item.is_done]
            if not part:
                continue
            done = await self._compute([entry.model_input for entry in part])
            report.run_s += done.ended_s - done.began_s
            half = len(part) // 2
            if done.error is None:
                self._deliver(part, done, report)
            elif half and not isinstance(done.error, DeviceLostError):
                parts += [part[half:], part[:half]]  # the last is tried first
                if isinstance(done.error, DeviceMemoryError):
                    report.fitting = half
            else:
                report.failure = done.error
                # Of a device that is lost no other pass will do better.
                for entry in batch if isinstance(done.error, DeviceLostError) else part:
                    entry.item.fail(done.error)
        if report.succeeded:
            self.monitor.batch_succeeded()
        elif report.failure:
            self.monitor.batch_failed(report.failure)
        return report

    async def try_out(self, model_input: ModelInput, sizes: Sequence[int]) -> None:
        """Compute batches of these sizes, beside all that waits.

        Raises:
            Exception: what computing them raised.
        """
        for size in sizes:
            done = await self._compute([model_input] * size)
            failures = [row for row in done.rows if isinstance(row, Exception)]
            if error := done.error or next(iter(failures), None):
                self.monitor.batch_failed(error)
                raise error
            self.monitor.batch_succeeded()

    async def aclose(self) -> None:
        """Stop; a forward pass that still runs is given a moment to end."""
        await self._pool.aclose()

    async def _compute(self, inputs: Sequence[ModelInput]) -> _Forward:
        done = await self._pool.run(_forward, self._tower, inputs)
        cost = sum(one.cost for one in inputs)
        run_s = done.ended_s - done.began_s
        self._observers(BatchStats(len(inputs), run_s, cost, failed=done.error is not None))
        return done

    def _deliver(self, part: Sequence[QueueEntry], done: _Forward, report: BatchReport) -> None:
        for entry, row in zip(part, done.rows, strict=True):
            if isinstance(row, Exception):
                report.failure = row
                entry.item.fail(row)
            else:
                report.succeeded = True
                one = entry.model_input
                embedded = EmbeddingResult(row, one.tokens, one.truncated)
                entry.item.add_row(entry.place, embedded, done.began_s, done.ended_s)


def _forward(tower: Tower, inputs: Sequence[ModelInput]) -> _Forward:
    """Compute a batch in the thread; never raises."""
    began_s = time.perf_counter()
    try:
        rows = _rows(tower, inputs)
    except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the batch's items
        return _Forward(began_s, time.perf_counter(), error=detached(error))
    return _Forward(began_s, time.perf_counter(), rows)


def _rows(tower: Tower, inputs: Sequence[ModelInput]) -> list[Vector | Exception]:
    rows = tower.network(*tower.processor.collate(inputs))
    if len(rows) != len(inputs):
        raise BackendError(f"{len(rows)} results for {len(inputs)} items. This is a bug.")
    return [_checked(row, one.pooling_index) for row, one in zip(rows, inputs, strict=True)]


def _checked(row: Rows, pooling_index: int) -> Vector | Exception:
    """Return the vector of a row: [dim], or [poolings, dim] of which one is its own."""
    vector = row[pooling_index] if row.ndim > 1 else row
    if not np.isfinite(vector).all():
        return BackendError("the model answered numbers that are not finite")
    return vector.copy()  # a copy: a remembered row must not keep its batch in memory

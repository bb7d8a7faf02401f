"""A worker: computes batches in a thread of its own, and delivers rows or errors to items.

    batch -> a forward pass in the thread -> a row or an error for each entry -> its item
               '-- it fails: each half is a forward pass, until the entry at fault is alone

Any error in a batch is a failure of that batch, not of the worker. This module knows no queue.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from backends.model import EmbeddingResult, ModelInput, Rows, Tower, Vector
from errors import BackendError, DeviceLostError, DeviceMemoryError
from inference.capacity import BatchStats
from inference.device import DeviceShare, DeviceTurn
from inference.health import Monitor
from inference.observers import Observers
from inference.tasks import detached
from inference.work import QueueEntry
from inference.worker_pool import WorkerPool


@dataclass(slots=True)
class BatchReport:
    """The outcome of a batch: its duration, success and failures.

    Attributes:
        run_s: duration of the batch's forward passes in seconds.
        succeeded: whether at least one item was computed.
        failure: the last error of an item.
        fitting: new maximum batch size, if the device's memory is too small for the batch.
    """

    run_s: float = 0.0
    succeeded: bool = False
    failure: Exception | None = None
    fitting: int | None = None


@dataclass(frozen=True, slots=True)
class _Forward:
    """The result of a forward pass in the thread."""

    began_s: float
    ended_s: float
    rows: Sequence[Vector | Exception] = field(default_factory=list)
    error: Exception | None = None  # the error of the whole pass


class ModelWorker:
    """Computes batches of a tower on a device, one at a time.

    Args:
        name: name of the worker's thread.
        tower: the tower.
        share: the model's share of the device.
        observers: called with the statistics of every forward pass.
        monitor: receives a report of each batch, after all items of the batch were answered.
    """

    def __init__(
        self,
        name: str,
        tower: Tower,
        share: DeviceShare,
        observers: Observers[[BatchStats]],
        monitor: Monitor,
    ) -> None:
        self.share = share
        self.monitor = monitor
        self._tower = tower
        self._observers = observers
        self._pool = WorkerPool(1, name, monitor)

    async def run(self, batch: Sequence[QueueEntry], turn: DeviceTurn | None = None) -> BatchReport:
        """Compute a batch, and deliver a row or an error to each item.

        Args:
            batch: the batch.
            turn: its turn at the device; it ends with the last pass, before the items are answered.
        """
        report = BatchReport()
        parts = [batch]
        while parts:
            part = [entry for entry in parts.pop() if not entry.item.is_done]
            if not part:
                continue
            done = await self._compute([entry.model_input for entry in part], turn)
            report.run_s += done.ended_s - done.began_s
            half = len(part) // 2
            if done.error is None:
                if turn and not parts:
                    turn.end()
                self._deliver(part, done, report)
            elif half and not isinstance(done.error, DeviceLostError):
                parts += [part[half:], part[:half]]  # the last part is computed first
                if isinstance(done.error, DeviceMemoryError):
                    report.fitting = half
            else:
                report.failure = done.error
                # A lost device fails every pass.
                for entry in batch if isinstance(done.error, DeviceLostError) else part:
                    entry.item.fail(done.error)
        if report.succeeded:
            self.monitor.batch_succeeded()
        elif report.failure:
            self.monitor.batch_failed(report.failure)
        return report

    async def try_out(self, batch: Sequence[ModelInput], turn: DeviceTurn | None = None) -> None:
        """Compute a trial batch, which bypasses the queue.

        Args:
            batch: the inputs.
            turn: its turn at the device.

        Raises:
            Exception: the computation failed.
        """
        done = await self._compute(batch, turn)
        failures = [row for row in done.rows if isinstance(row, Exception)]
        if error := done.error or next(iter(failures), None):
            self.monitor.batch_failed(error)
            raise error
        self.monitor.batch_succeeded()

    async def aclose(self) -> None:
        """Stop; a running forward pass has a few seconds to end."""
        await self._pool.aclose()

    async def _compute(
        self, inputs: Sequence[ModelInput], turn: DeviceTurn | None = None
    ) -> _Forward:
        began_s, used_s = time.perf_counter(), turn.used_until_now_s() if turn else 0.0
        done = await self._pool.run(_forward, self._tower, inputs)
        device_share = 1.0
        if turn:
            used_s = turn.used_until_now_s() - used_s
            device_share = min(1.0, used_s / (time.perf_counter() - began_s))
        cost = sum(one.cost for one in inputs)
        run_s = done.ended_s - done.began_s
        failed = done.error is not None
        self._observers(BatchStats(len(inputs), run_s, cost, failed, device_share))
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
    """Compute a batch in the thread; errors are part of the result."""
    began_s = time.perf_counter()
    try:
        rows = _rows(tower, inputs)
    except BaseException as error:  # noqa: BLE001 - any error is the batch's
        return _Forward(began_s, time.perf_counter(), error=detached(error))
    return _Forward(began_s, time.perf_counter(), rows)


def _rows(tower: Tower, inputs: Sequence[ModelInput]) -> list[Vector | Exception]:
    rows = tower.network(*tower.processor.collate(inputs))
    if len(rows) != len(inputs):
        raise BackendError(f"{len(rows)} results for {len(inputs)} items. This is a bug.")
    return [_checked(row, one.pooling_index) for row, one in zip(rows, inputs, strict=True)]


def _checked(row: Rows, pooling_index: int) -> Vector | Exception:
    """Return the vector of a row, [dim] or [poolings, dim], or an error if it is not finite."""
    vector = row[pooling_index] if row.ndim > 1 else row
    if not np.isfinite(vector).all():
        return BackendError("the model answered numbers that are not finite")
    return vector.copy()  # a copy: a cached row must not keep its batch in memory

"""Batches across callers: whoever waits while a batch is computed shares the next one.

    submit -> queue -> batch -> runner (a thread each) -> results

It owns the runners' lives. A batch that fails is no fault of theirs; whatever else ends one of them
makes the lane dead: all who wait are told, newcomers are refused, and health knows why. It knows no
HTTP, no images and no model: items go in, results come out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Sequence
from functools import partial
from typing import Generic, TypeVar

from errors import UnhealthyError
from inference.batch_queue import BatchQueue, Computed, Job
from inference.fair_queue import Party
from inference.health import Health
from inference.observers import Observers
from inference.runner import BatchReport, BatchStats, RunBatch, Runner
from inference.tasks import all_or_first_error

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Coalesces items of many callers into batches.

    Args:
        name: of the lane.
        run_batches: functions that compute a batch, each in a thread of its own, side by side.
        health: hears how the batches of each go.
        max_batch_size: most items in one batch.

    Attributes:
        observers: are told of every pass.
    """

    def __init__(
        self,
        name: str,
        run_batches: Sequence[RunBatch[T, R]],
        health: Health,
        *,
        max_batch_size: int,
    ) -> None:
        self.observers: Observers[[BatchStats]] = Observers()
        self._name = name
        self._queue: BatchQueue[T, R] = BatchQueue(max_batch_size)
        alone = len(run_batches) == 1
        names = [name if alone else f"{name} {number}" for number in range(len(run_batches))]
        self._runners = [
            Runner(own_name, run_batch, self.observers, health.monitor(own_name))
            for own_name, run_batch in zip(names, run_batches, strict=True)
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._unanswered: set[asyncio.Future[Computed[R]]] = set()
        self._closed: str | None = None  # why, or None

    def limit_cost(self, max_cost: float) -> None:
        """Let no batch cost more from now on, but for one item alone."""
        self._queue.max_cost = max_cost

    async def submit(
        self, item: T, party: Party, bucket: Hashable = 0, cost: int = 1
    ) -> Computed[R]:
        """Wait for the result of one item; cancelling the wait takes the item out of the queue.

        Args:
            item: is computed.
            party: who waits: the item is computed in the first of their turns.
            bucket: only items of equal buckets share a batch; one whose bucket is None has its own.
            cost: what it weighs in a batch.

        Raises:
            Exception: what computing it raised, though it was alone at last.
            UnhealthyError: no more is computed here.
        """
        self._check_open()
        self._start()
        # No local variable may name the future, see `WorkerPool.run`.
        return await self._enqueued(item, party, bucket, cost)

    def _enqueued(
        self, item: T, party: Party, bucket: Hashable, cost: int
    ) -> asyncio.Future[Computed[R]]:
        job = Job(item, self._future(), party, bucket, cost)
        try:
            self._queue.put(job)
        except BaseException:
            job.future.cancel()  # nobody will await it
            raise
        return job.future

    def _future(self) -> asyncio.Future[Computed[R]]:
        future: asyncio.Future[Computed[R]] = asyncio.get_running_loop().create_future()
        self._unanswered.add(future)
        future.add_done_callback(self._unanswered.discard)
        return future

    async def try_out(self, item: T, cost: int, sizes: Sequence[int]) -> None:
        """Let every runner compute batches of these sizes, before anything that waits.

        Raises:
            Exception: what computing them raised.
            UnhealthyError: no more is computed here.
        """
        self._check_open()
        work = [self._try_one(runner, item, cost, sizes) for runner in self._runners]
        await all_or_first_error(work)

    async def _try_one(
        self, runner: Runner[T, R], item: T, cost: int, sizes: Sequence[int]
    ) -> None:
        for size in sizes:
            jobs = [Job(item, self._future(), Party(), cost=cost) for _ in range(size)]
            try:
                await runner.run(jobs)
                await asyncio.gather(*(job.future for job in jobs))
            finally:
                for job in jobs:
                    job.future.cancel()

    def _check_open(self) -> None:
        if self._closed:
            raise UnhealthyError(self._closed)

    def _start(self) -> None:
        for runner in self._runners[len(self._tasks) :]:
            task = asyncio.create_task(self._serve(runner), name=f"{self._name}-runner")
            task.add_done_callback(partial(self._ended, runner))
            self._tasks.append(task)

    async def _serve(self, runner: Runner[T, R]) -> None:
        while True:
            await self._serve_batch(runner)

    async def _serve_batch(self, runner: Runner[T, R]) -> None:
        # By itself, so that nothing names a batch, with its pictures, while the next is waited for.
        batch = await self._queue.next_batch()
        report = await runner.run(batch)
        self._queue.batch_ended(batch, report.run_s)
        self._heed_memory(report)

    def _heed_memory(self, report: BatchReport) -> None:
        if report.fitting and report.fitting < self._queue.max_batch_size:
            self._queue.max_batch_size = report.fitting  # what did not fit will not fit
            logger.warning(
                "The device's memory is too small for the %s batch: from now on at most %d items",
                self._name,
                report.fitting,
            )

    def _ended(self, runner: Runner[T, R], task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._closed:
            return
        fault = f"the {self._name} lane has ended"
        reason = f"{type(error).__name__}: {error}" if error else "its task was cancelled"
        logger.critical("%s: %s. This is a bug.", fault, reason, exc_info=error)
        runner.monitor.died(fault, reason)
        self._close(runner.monitor.dead or fault)

    def _close(self, why: str) -> None:
        self._closed = self._closed or why
        for task in self._tasks:
            task.cancel()
        for future in [future for future in self._unanswered if not future.done()]:
            future.set_exception(UnhealthyError(self._closed))

    async def aclose(self) -> None:
        """Stop; what still waits or is computed is answered with an `UnhealthyError`."""
        self._close(f"the {self._name} lane is closed")
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(runner.aclose() for runner in self._runners))

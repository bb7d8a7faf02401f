"""Dynamic batching across requests: chunks that wait during a batch share the next one.

    submit -> fair queue -> batch -> worker (a thread for each device) -> rows -> the items

A single chunk is computed at once. Chunks that arrive during a batch form the next one, in fair
turns. After a batch the scheduler waits for the requests that usually follow. Otherwise clients
that send one request after the other would form two groups that alternate, with batches of half the
size, each computed while the event loop needs the same cores to answer the other group.

A failing batch is no fault of the scheduler. Any other error in one of its tasks ends the
scheduler: waiting items end with an error, new items are rejected, and health reports the reason.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from backends.model import ModelInput, Tower
from errors import UnhealthyError
from inference.capacity import BatchStats, Capacity
from inference.device import DeviceShare, DeviceTurn
from inference.fair_queue import FairQueue
from inference.health import Health
from inference.observers import Observers
from inference.tasks import all_or_first_error
from inference.work import QueueEntry
from inference.worker import BatchReport, ModelWorker

logger = logging.getLogger(__name__)

BatchHook: TypeAlias = Callable[[str, BatchStats], None]  # (modality, stats)

# As shares of the last batch's duration: the maximum wait for the next arrival, and for all
# arrivals together. The first wait may cost that share of the throughput. The second wait goes on
# only while requests arrive, and may double the batch.
LINGER = 0.2
MAX_LINGER = 1.0
# Passes of the event loop before the wait ends: an arrival may be in a socket while the loop
# answers.
_LOOP_PASSES = 3


class Scheduler:
    """Forms batches of the waiting chunks of one modality.

    Args:
        name: the modality.
        towers: the tower of each replica; they compute in parallel.
        shares: the model's share of each replica's device.
        health: receives a report of every batch.
        capacity: rate of the devices and limits of a batch; it receives every forward pass.

    Attributes:
        observers: called with the statistics of every forward pass.
        capacity: the capacity, with the limits of a batch.
    """

    def __init__(
        self,
        name: str,
        towers: Sequence[Tower],
        shares: Sequence[DeviceShare],
        health: Health,
        capacity: Capacity,
    ) -> None:
        self.capacity = capacity
        self.observers: Observers[[BatchStats]] = Observers(capacity.observe)
        self._name = name
        names = [name] if len(towers) == 1 else [f"{name} {i}" for i in range(len(towers))]
        self._workers = [
            ModelWorker(own_name, tower, share, self.observers, health.monitor(own_name))
            for own_name, tower, share in zip(names, towers, shares, strict=True)
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._queue: FairQueue[QueueEntry] = FairQueue()
        self._computing: dict[ModelWorker, Sequence[QueueEntry]] = {}
        self._idle: deque[asyncio.Future[bool]] = deque()  # futures of idle workers
        self._asked: list[DeviceTurn] = []  # turns that have not begun yet
        self._closed: str | None = None  # the reason, or None
        self._arrivals = 0
        # After a batch: the number of expected arrivals, and whether they are queries.
        self._expected_arrivals = 0.0
        self._expects_queries = False
        self._fitting: float = math.inf  # how many items like those of the last batch fit a batch
        self._item_s = 0.0  # seconds of the last batch for each item
        self._last_run_s = 0.0
        self._last_end_s = 0.0

    def submit(self, entries: Sequence[QueueEntry]) -> None:
        """Queue the chunks of an item for batches.

        Raises:
            UnhealthyError: the scheduler has ended.
        """
        if self._closed:
            raise UnhealthyError(self._closed)
        if not self._tasks:
            for worker in self._workers:
                task = asyncio.create_task(self._serve(worker), name=f"{self._name}-worker")
                task.add_done_callback(partial(self._ended, worker))
                self._tasks.append(task)
        for entry in entries:
            self._queue.put(entry)
        self._arrivals += 1
        self._wake_one()
        if self._asked and self._queue.is_query_next:
            for turn in self._asked:
                turn.hurry()

    async def try_out(self, model_input: ModelInput, sizes: Sequence[int]) -> None:
        """Let every worker compute trial batches of these sizes, which bypass the queue.

        They take turns with the batches of other models.

        Raises:
            Exception: the computation failed.
            UnhealthyError: the scheduler has ended.
        """
        if self._closed:
            raise UnhealthyError(self._closed)
        for size in sizes:
            batch = [model_input] * size
            await all_or_first_error([self._try_out(worker, batch) for worker in self._workers])

    async def _try_out(self, worker: ModelWorker, batch: Sequence[ModelInput]) -> None:
        if not worker.share.device.is_shared:
            await worker.try_out(batch)
            return
        run_s = self.capacity.run_s(sum(one.cost for one in batch))
        turn = worker.share.ask(run_s, is_query=False)
        try:
            await turn.granted
            turn.expect(run_s)
            await worker.try_out(batch, turn)
        finally:
            turn.end()

    async def aclose(self) -> None:
        """Stop; waiting and computed items end with an `UnhealthyError`."""
        self._close(f"the {self._name} scheduler is closed")
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(worker.aclose() for worker in self._workers))

    # A task for each worker.

    async def _serve(self, worker: ModelWorker) -> None:
        while True:
            await self._serve_batch(worker)

    async def _serve_batch(self, worker: ModelWorker) -> None:
        # A function of its own, so that no variable keeps a batch during the wait for the next.
        if not self._queue:
            await self._arrival()
        if len(self._queue) < self._expected_arrivals:
            await self._linger()
        turn = await self._turn(worker.share) if worker.share.device.is_shared else None
        try:
            batch = self._take(turn)
            if not batch:
                return
            self._computing[worker] = batch
            report = await worker.run(batch, turn)
            del self._computing[worker]
        finally:
            if turn:
                turn.end()
        self._batch_ended(batch, report)

    async def _turn(self, share: DeviceShare) -> DeviceTurn:
        """Wait until no batch of another model is in the way."""
        items = min(len(self._queue), self.capacity.max_batch_size, self._fitting)
        turn = share.ask(items * self._item_s, is_query=self._queue.is_query_next)
        self._asked.append(turn)
        try:
            await turn.granted
        except BaseException:
            turn.end()
            raise
        finally:
            self._asked.remove(turn)
        return turn

    def _take(self, turn: DeviceTurn | None) -> list[QueueEntry]:
        """Form the next batch; it is empty if all chunks have been taken or have left meanwhile."""
        max_cost = self.capacity.max_batch_cost
        self._fitting = math.inf
        if turn:
            max_cost = min(max_cost, self.capacity.cost_within(turn.share.max_batch_s))
        batch = self._queue.take(self.capacity.max_batch_size, max_cost)
        if turn and batch:
            cost = sum(entry.cost for entry in batch)
            turn.expect(self.capacity.run_s(cost))
            self._fitting = max(1.0, max_cost / cost * len(batch))
        if self._queue and batch:
            self._wake_one()
        return batch

    def _batch_ended(self, batch: Sequence[QueueEntry], report: BatchReport) -> None:
        # Others may follow a request that is answered. One with many items takes several batches.
        items = {entry.item for entry in batch}
        answered = sum(all(not one.pending for one in item.waiters) for item in items)
        expected = 0 if batch[0].is_alone else answered + len(self._queue)
        self._expected_arrivals = min(expected, self.capacity.max_batch_size, self._fitting)
        self._expects_queries = any(request.is_query for request in batch[0].waiters)
        self._item_s = report.run_s / len(batch)
        self._last_run_s, self._last_end_s = report.run_s, time.perf_counter()
        if report.fitting and report.fitting < self.capacity.max_batch_size:
            self.capacity.max_batch_size = report.fitting  # the larger batch would not fit again
            logger.warning(
                "The device's memory is too small for the %s batch: from now on at most %d items",
                self._name,
                report.fitting,
            )

    # Arrivals, and the wait for them.

    async def _linger(self) -> None:
        """Wait for the requests that usually follow a batch, while they arrive."""
        until_s = self._last_end_s + MAX_LINGER * self._last_run_s
        while self._expects_arrivals() and time.perf_counter() < until_s:
            seen = self._arrivals
            if await self._arrival(LINGER * self._last_run_s):
                continue
            for _ in range(_LOOP_PASSES):
                await asyncio.sleep(0)
            if self._arrivals == seen:
                return

    def _expects_arrivals(self) -> bool:
        if len(self._queue) >= self._expected_arrivals:
            return False
        # Two devices are idle: they share the waiting chunks instead.
        if len(self._workers) - len(self._computing) > 1:
            return False
        # Also if entries wait: a returning request may be due before them. No request is due before
        # a query.
        return self._expects_queries or not self._queue.is_query_next

    async def _arrival(self, within_s: float | None = None) -> bool:
        """Wait for the next arrival; return whether it came in time."""
        loop = asyncio.get_running_loop()
        arrival: asyncio.Future[bool] = loop.create_future()
        timer = None if within_s is None else loop.call_later(within_s, _give_up, arrival)
        self._idle.append(arrival)
        try:
            return await arrival
        finally:
            if timer:
                timer.cancel()
            if arrival in self._idle:
                self._idle.remove(arrival)

    def _wake_one(self) -> None:
        while self._idle:
            arrival = self._idle.popleft()
            if not arrival.done():
                arrival.set_result(True)
                return

    # The end.

    def _ended(self, worker: ModelWorker, task: asyncio.Task[None]) -> None:
        if self._closed:
            return
        error = None if task.cancelled() else task.exception()
        fault = f"the {self._name} scheduler has ended"
        reason = f"{type(error).__name__}: {error}" if error else "its task was cancelled"
        logger.critical("%s: %s. This is a bug.", fault, reason, exc_info=error)
        worker.monitor.died(fault, reason)
        self._close(worker.monitor.dead or fault)

    def _close(self, why: str) -> None:
        self._closed = self._closed or why
        for task in self._tasks:
            task.cancel()
        computing = [entry for batch in self._computing.values() for entry in batch]
        for entry in [*computing, *self._queue.entries()]:
            entry.item.fail(UnhealthyError(self._closed))


def _give_up(arrival: asyncio.Future[bool]) -> None:
    if not arrival.done():
        arrival.set_result(False)

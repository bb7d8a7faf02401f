import asyncio
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pytest

from backends.model import Arrays, EncodeParams, ModelInput, Rows, Tower
from backends.preprocessing.single_part import SinglePart
from errors import BackendError, DeviceLostError, DeviceMemoryError, UnhealthyError
from inference.capacity import BatchStats, Capacity
from inference.device import Device
from inference.health import Health
from inference.request import RequestContext
from inference.scheduler import LINGER, MAX_LINGER, Scheduler
from inference.timings import ItemTimes
from inference.work import ChunkInputs, QueueEntry, WorkItem

pytestmark = pytest.mark.anyio

# Computes a number for each of a batch of numbers.
RunBatch: TypeAlias = Callable[[Sequence[int]], Sequence[float]]


class Numbers(SinglePart):
    """Hands numbers on to the network."""

    def estimate(self, content: Any) -> int:
        return 1

    def prepare(self, part: Any, params: EncodeParams) -> ModelInput:
        return prepared(part)

    def collate(self, items: Sequence[ModelInput]) -> Arrays:
        return (np.array([int(item.arrays[0]) for item in items]),)


def prepared(number: int, bucket: Hashable = 0) -> ModelInput:
    return ModelInput((np.array(number),), bucket, cost=1)


def tower_of(run_batch: RunBatch) -> Tower:
    def network(numbers: np.ndarray) -> Rows:
        results = run_batch(numbers.tolist())
        return np.array([[result] for result in results], np.float32)

    return Tower(Numbers(), network)


def scheduler_of(*run_batches: RunBatch, size: int = 4, health: Health | None = None) -> Scheduler:
    capacity = Capacity(size, timeout_s=45, replicas=len(run_batches))
    towers = [tower_of(run_batch) for run_batch in run_batches]
    shares = [Device().share() for _ in run_batches]
    return Scheduler("test", towers, shares, health or Health(), capacity)


def item_of(number: int, bucket: Hashable = 0) -> WorkItem:
    item = WorkItem("text", number, EncodeParams(), b"", ItemTimes())
    item.chunks = ChunkInputs([prepared(number, bucket)])
    return item


async def ask(
    scheduler: Scheduler, number: int, *, is_query: bool = False, bucket: Hashable = 0
) -> float:
    """Wait for the number that is computed for another, as a request does."""
    request, item = RequestContext(is_query=is_query), item_of(number, bucket)
    item.join(request)
    item.expect_rows(item.chunks, [None])
    entry = QueueEntry(item, 0)
    item.entries.append(entry)
    scheduler.submit([entry])
    try:
        await request.wait()
    finally:
        item.leave(request)
    if item.error:
        raise item.error
    assert item.rows[0] is not None
    return float(item.rows[0].vector[0])


class Doubler:
    """Doubles numbers, one batch at a time, and waits for its gate when that is closed."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.started = threading.Event()
        self.gate.set()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.started.set()
        assert self.gate.wait(timeout=10)
        self.batches.append(list(items))
        if 13 in items:
            raise BackendError("13 is unlucky")
        return [2 * item for item in items]

    async def until_busy(self) -> None:
        assert await asyncio.to_thread(self.started.wait, 10)


async def test_a_lone_item_runs_at_once() -> None:
    doubler = Doubler()
    scheduler = scheduler_of(doubler)

    assert await ask(scheduler, 1) == 2
    assert doubler.batches == [[1]]
    await scheduler.aclose()


async def test_items_queued_while_busy_share_the_next_batch_up_to_its_size() -> None:
    doubler = Doubler()
    doubler.gate.clear()
    scheduler = scheduler_of(doubler)
    first = asyncio.create_task(ask(scheduler, 0))
    await doubler.until_busy()
    rest = [asyncio.create_task(ask(scheduler, i)) for i in range(1, 7)]
    await asyncio.sleep(0)
    doubler.gate.set()

    assert await asyncio.gather(first, *rest) == [0, 2, 4, 6, 8, 10, 12]
    assert doubler.batches == [[0], [1, 2, 3, 4], [5, 6]]
    await scheduler.aclose()


async def test_between_the_batches_of_a_request_nothing_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("inference.scheduler.LINGER", 1.0)
    run_s = 0.3
    began_s: list[float] = []

    def slow(numbers: Sequence[int]) -> Sequence[int]:
        began_s.append(time.perf_counter())
        time.sleep(run_s)
        return numbers

    scheduler = scheduler_of(slow)
    request, items = RequestContext(is_query=True), [item_of(number) for number in range(9)]
    for item in items:
        item.join(request)
        item.expect_rows(item.chunks, [None])
    scheduler.submit([QueueEntry(item, 0) for item in items])
    await request.wait()

    assert all(item.has_rows for item in items)
    waits_s = [after - before - run_s for before, after in itertools.pairwise(began_s)]
    assert len(waits_s) == 2
    assert max(waits_s) < run_s / 2
    await scheduler.aclose()


async def test_a_cancelled_item_never_reaches_a_batch() -> None:
    doubler = Doubler()
    doubler.gate.clear()
    scheduler = scheduler_of(doubler)
    first = asyncio.create_task(ask(scheduler, 0))
    await doubler.until_busy()
    gone, kept = (asyncio.create_task(ask(scheduler, i)) for i in (1, 2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    doubler.gate.set()

    assert list(await asyncio.gather(first, kept)) == [0, 4]
    assert doubler.batches == [[0], [2]]
    await scheduler.aclose()


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("bucket", [0, None])
async def test_an_answered_item_is_kept_by_nothing_while_the_worker_is_idle(
    bucket: int | None,
) -> None:
    scheduler = scheduler_of(lambda numbers: [1] * len(numbers))

    class Watched(ModelInput):
        """An input that can be watched."""

    async def answered() -> weakref.ref[Watched]:
        watched = Watched((np.array(1),), bucket, cost=1)
        request, item = RequestContext(), item_of(1)
        item.join(request)
        item.expect_rows(ChunkInputs([watched]), [None])
        scheduler.submit([QueueEntry(item, 0)])
        await request.wait()
        return weakref.ref(watched)

    watched = await answered()
    await asyncio.sleep(0.01)  # the worker still has to hear of it
    assert watched() is None
    await scheduler.aclose()


async def test_an_item_cancelled_while_it_is_computed_does_not_stop_the_scheduler() -> None:
    doubler = Doubler()
    doubler.gate.clear()
    scheduler = scheduler_of(doubler)
    first = asyncio.create_task(ask(scheduler, 0))
    await doubler.until_busy()
    first.cancel()
    await asyncio.sleep(0)
    doubler.gate.set()

    assert await ask(scheduler, 1) == 2
    await scheduler.aclose()


async def test_a_failing_item_fails_alone() -> None:
    doubler = Doubler()
    doubler.gate.clear()
    scheduler = scheduler_of(doubler)
    tasks = [asyncio.create_task(ask(scheduler, item)) for item in (0, 1, 13, 3, 4)]
    await doubler.until_busy()
    doubler.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert [answers[i] for i in (0, 1, 3, 4)] == [0, 2, 6, 8]
    assert isinstance(answers[2], BackendError)
    assert await ask(scheduler, 5) == 10
    await scheduler.aclose()


async def test_a_row_that_is_not_finite_fails_its_item_only() -> None:
    def invert(numbers: Sequence[int]) -> list[float]:
        return [1 / number if number else float("nan") for number in numbers]

    scheduler = scheduler_of(invert)
    answers = await asyncio.gather(
        *(ask(scheduler, number) for number in (2, 0, 4)), return_exceptions=True
    )

    assert answers[::2] == [0.5, 0.25]
    assert str(answers[1]) == "the model answered numbers that are not finite"
    await scheduler.aclose()


class SmallDevice(Doubler):
    """Holds two items and no more."""

    def __call__(self, items: Sequence[int]) -> list[int]:
        results = super().__call__(items)
        if len(items) > 2:
            raise DeviceMemoryError("too much")
        return results


async def test_a_batch_that_does_not_fit_is_halved_and_its_size_remembered() -> None:
    device = SmallDevice()
    device.gate.clear()
    scheduler = scheduler_of(device)
    tasks = [asyncio.create_task(ask(scheduler, item)) for item in range(9)]
    await device.until_busy()
    device.gate.set()

    assert await asyncio.gather(*tasks) == [2 * item for item in range(9)]
    sizes = [len(batch) for batch in device.batches]
    assert sizes == [4, 2, 2, 2, 2, 1] or sizes == [1, 4, 2, 2, 2, 2]
    await scheduler.aclose()


async def test_an_item_that_does_not_fit_alone_is_an_error() -> None:
    def refuse(_: Sequence[int]) -> list[int]:
        raise DeviceMemoryError("too much")

    scheduler = scheduler_of(refuse)

    with pytest.raises(DeviceMemoryError):
        await ask(scheduler, 1)
    await scheduler.aclose()


async def test_a_lost_device_is_not_tried_again() -> None:
    calls = []

    def lost(items: Sequence[int]) -> list[int]:
        calls.append(len(items))
        raise DeviceLostError("gone")

    scheduler = scheduler_of(lost)
    answers = await asyncio.gather(
        *(ask(scheduler, item) for item in range(4)), return_exceptions=True
    )

    assert all(isinstance(answer, DeviceLostError) for answer in answers)
    assert calls == [4]
    await scheduler.aclose()


async def test_a_device_that_is_lost_in_a_half_is_not_tried_with_the_other() -> None:
    calls = []
    health = Health()

    def lost(items: Sequence[int]) -> list[int]:
        calls.append(len(items))
        raise DeviceLostError("gone") if len(items) < 4 else ValueError

    scheduler = scheduler_of(lost, health=health)
    asked = (ask(scheduler, item) for item in range(4))
    answers = await asyncio.gather(*asked, return_exceptions=True)

    assert all(isinstance(answer, DeviceLostError) for answer in answers)
    assert calls == [4, 2]
    assert health.dead == "the device is lost, start the service anew: gone"
    await scheduler.aclose()


async def test_a_batch_is_one_success_or_failure_for_the_health_however_it_was_halved() -> None:
    health = Health()

    def unlucky(items: Sequence[int]) -> list[int]:
        if 13 in items:
            raise BackendError("13 is unlucky")
        return list(items)

    scheduler = scheduler_of(unlucky, health=health)
    for _ in range(3):  # its last passes fail each time
        asked = (ask(scheduler, item) for item in (1, 2, 3, 13))
        await asyncio.gather(*asked, return_exceptions=True)
    assert health.failing is None
    seen: list[str | None] = []
    for _ in range(3):  # three passes each
        asked = (ask(scheduler, item) for item in (13, 13))
        await asyncio.gather(*asked, return_exceptions=True)
        seen.append(health.failing)

    assert seen == [None, None, "test: the last 3 batches failed: 13 is unlucky"]
    await scheduler.aclose()


async def test_a_replica_that_fails_is_seen_beside_one_that_does_not() -> None:
    health = Health()

    def double(items: Sequence[int]) -> list[int]:
        return [2 * item for item in items]

    def fail(_: Sequence[int]) -> list[int]:
        raise BackendError("no")

    scheduler = scheduler_of(double, fail, size=1, health=health)
    for _ in range(3):  # each is tried, and not whichever is free
        with pytest.raises(BackendError):
            await scheduler.try_out(prepared(1), sizes=(1,))

    assert health.failing == "test 1: the last 3 batches failed: no"
    await scheduler.aclose()


class Slow(Doubler):
    """Takes long enough for the wait after a batch to be seen."""

    def __call__(self, items: Sequence[int]) -> list[int]:
        time.sleep(0.2)
        return super().__call__(items)


@pytest.mark.parametrize("is_query", [False, True])
async def test_callers_who_come_back_after_an_answer_share_one_batch(is_query: bool) -> None:
    slow = Slow()
    scheduler = scheduler_of(slow)

    async def client() -> None:
        for _ in range(4):
            await ask(scheduler, 1, is_query=is_query)
            await asyncio.sleep(0.001)  # less than the wait for one

    await asyncio.gather(*(client() for _ in range(4)))

    assert [len(batch) for batch in slow.batches][-3:] == [4, 4, 4]
    await scheduler.aclose()


async def test_the_wait_goes_on_while_one_after_the_other_comes_back() -> None:
    slow = Slow()
    scheduler = scheduler_of(slow)

    async def client(pause_s: float) -> None:
        for _ in range(4):
            await ask(scheduler, 1)
            await asyncio.sleep(pause_s)  # the last one's is longer than the wait for one

    await asyncio.gather(*(client(0.022 * number) for number in range(4)))

    assert [len(batch) for batch in slow.batches][-3:] == [4, 4, 4]
    await scheduler.aclose()


async def test_the_wait_for_one_after_the_other_is_bounded() -> None:
    slow = Slow()
    scheduler = scheduler_of(slow, size=30)
    await asyncio.gather(*(ask(scheduler, 1) for _ in range(30)))

    async def one_by_one() -> None:
        async with asyncio.TaskGroup() as others:
            for _ in range(25):
                others.create_task(ask(scheduler, 1))
                await asyncio.sleep(0.02)  # of 30 the last would come after three batches

    trickle = asyncio.create_task(one_by_one())
    started_s = time.perf_counter()
    await ask(scheduler, 1)

    assert time.perf_counter() - started_s < 0.2 * (1 + MAX_LINGER + LINGER) + 0.1
    await trickle
    await scheduler.aclose()


async def test_a_query_waits_for_nobody_who_asked_something_else() -> None:
    slow = Slow()
    scheduler = scheduler_of(slow)
    await asyncio.gather(*(ask(scheduler, item) for item in range(4)))
    started_s = time.perf_counter()
    await ask(scheduler, 1, is_query=True)

    assert time.perf_counter() - started_s < 0.2 * (1 + LINGER / 2)
    await scheduler.aclose()


async def test_no_batch_lingers_while_a_second_device_is_free() -> None:
    scheduler = scheduler_of(Slow(), Slow())
    await asyncio.gather(*(ask(scheduler, item) for item in range(4)))
    started_s = time.perf_counter()
    await ask(scheduler, 1)

    assert time.perf_counter() - started_s < 0.2 * (1 + LINGER / 2)
    await scheduler.aclose()


async def test_who_is_not_joined_waits_a_fifth_of_a_batch_at_most() -> None:
    slow = Slow()
    scheduler = scheduler_of(slow)
    await asyncio.gather(*(ask(scheduler, item) for item in range(4)))
    started_s = time.perf_counter()
    await ask(scheduler, 1)  # the other three do not come back

    assert time.perf_counter() - started_s < 0.2 * (1 + 2 * LINGER) + 0.1
    await scheduler.aclose()


async def test_a_wrong_number_of_results_is_an_error() -> None:
    scheduler = scheduler_of(lambda _: [1, 2])

    with pytest.raises(BackendError, match="2 results for 1 items"):
        await ask(scheduler, 1)
    await scheduler.aclose()


async def test_every_pass_is_observed() -> None:
    seen: list[BatchStats] = []
    scheduler = scheduler_of(Doubler())
    scheduler.observers.add(seen.append)
    await ask(scheduler, 1)
    await scheduler.aclose()

    assert [stats.size for stats in seen] == [1]
    assert seen[0].run_s > 0


async def test_several_workers_work_side_by_side() -> None:
    both_busy = threading.Barrier(2, timeout=10)

    def run(items: Sequence[int]) -> list[int]:
        both_busy.wait()
        return list(items)

    scheduler = scheduler_of(run, run, size=1)

    assert list(await asyncio.gather(ask(scheduler, 1), ask(scheduler, 2))) == [1, 2]
    await scheduler.aclose()


async def test_a_halved_batch_is_observed_as_the_passes_that_it_took() -> None:
    seen: list[BatchStats] = []
    doubler = Doubler()
    doubler.gate.clear()
    scheduler = scheduler_of(doubler)
    scheduler.observers.add(seen.append)
    tasks = [asyncio.create_task(ask(scheduler, item)) for item in (1, 2, 3, 13)]
    await doubler.until_busy()
    doubler.gate.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    await scheduler.aclose()

    whole = [(4, True), (2, False), (2, True), (1, False), (1, True)]
    assert [(stats.size, stats.failed) for stats in seen] == whole


async def test_closing_answers_what_waits_and_what_comes() -> None:
    doubler = Doubler()
    doubler.gate.clear()
    scheduler = scheduler_of(doubler)
    first = asyncio.create_task(ask(scheduler, 0))
    await doubler.until_busy()
    waiting = asyncio.create_task(ask(scheduler, 1))
    await asyncio.sleep(0)
    closing = asyncio.create_task(scheduler.aclose())
    for task in (first, waiting):
        with pytest.raises(UnhealthyError, match="the test scheduler is closed"):
            await task
    with pytest.raises(UnhealthyError, match="the test scheduler is closed"):
        await ask(scheduler, 2)
    doubler.gate.set()
    await closing

    assert doubler.batches == [[0]]

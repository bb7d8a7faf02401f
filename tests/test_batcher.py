import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from errors import BackendError, DeviceLostError, DeviceMemoryError
from inference.batcher import PATIENCE, Batcher, BatchObserver, BatchStats, ignore

pytestmark = pytest.mark.anyio


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


def batcher_of(doubler: Doubler, observer: BatchObserver = ignore) -> Batcher[int, int]:
    return Batcher([doubler], max_batch_size=4, name="test", observer=observer)


async def test_a_lone_item_runs_at_once() -> None:
    doubler = Doubler()
    batcher = batcher_of(doubler)

    assert await batcher.submit(1) == 2
    assert doubler.batches == [[1]]
    await batcher.aclose()


async def test_items_queued_while_busy_share_the_next_batch_up_to_its_size() -> None:
    doubler = Doubler()
    doubler.gate.clear()
    batcher = batcher_of(doubler)
    first = asyncio.create_task(batcher.submit(0))
    await doubler.until_busy()
    rest = [asyncio.create_task(batcher.submit(i)) for i in range(1, 7)]
    await asyncio.sleep(0)
    doubler.gate.set()

    assert await asyncio.gather(first, *rest) == [0, 2, 4, 6, 8, 10, 12]
    assert doubler.batches == [[0], [1, 2, 3, 4], [5, 6]]
    await batcher.aclose()


async def test_a_cancelled_item_never_reaches_a_batch() -> None:
    doubler = Doubler()
    doubler.gate.clear()
    batcher = batcher_of(doubler)
    first = asyncio.create_task(batcher.submit(0))
    await doubler.until_busy()
    gone, kept = (asyncio.create_task(batcher.submit(i)) for i in (1, 2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    doubler.gate.set()

    assert list(await asyncio.gather(first, kept)) == [0, 4]
    assert doubler.batches == [[0], [2]]
    await batcher.aclose()


async def test_an_item_cancelled_while_it_is_computed_does_not_stop_the_batcher() -> None:
    doubler = Doubler()
    doubler.gate.clear()
    batcher = batcher_of(doubler)
    first = asyncio.create_task(batcher.submit(0))
    await doubler.until_busy()
    first.cancel()
    await asyncio.sleep(0)
    doubler.gate.set()

    assert await batcher.submit(1) == 2
    await batcher.aclose()


async def test_a_failing_item_fails_alone() -> None:
    doubler = Doubler()
    doubler.gate.clear()
    batcher = batcher_of(doubler)
    tasks = [asyncio.create_task(batcher.submit(item)) for item in (0, 1, 13, 3, 4)]
    await doubler.until_busy()
    doubler.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)

    assert [answers[i] for i in (0, 1, 3, 4)] == [0, 2, 6, 8]
    assert isinstance(answers[2], BackendError)
    assert await batcher.submit(5) == 10
    await batcher.aclose()


async def test_an_exception_in_a_results_place_fails_that_item_only() -> None:
    def halve(items: Sequence[int]) -> list[int | Exception]:
        return [item // 2 if item % 2 == 0 else BackendError("odd") for item in items]

    batcher: Batcher[int, int] = Batcher([halve], max_batch_size=4, name="test")
    answers = await asyncio.gather(*map(batcher.submit, (2, 3, 4)), return_exceptions=True)

    assert answers[::2] == [1, 2]
    assert str(answers[1]) == "odd"
    await batcher.aclose()


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
    batcher = batcher_of(device)
    tasks = [asyncio.create_task(batcher.submit(item)) for item in range(9)]
    await device.until_busy()
    device.gate.set()

    assert await asyncio.gather(*tasks) == [2 * item for item in range(9)]
    sizes = [len(batch) for batch in device.batches]
    assert sizes == [4, 2, 2, 2, 2, 1] or sizes == [1, 4, 2, 2, 2, 2]
    await batcher.aclose()


async def test_an_item_that_does_not_fit_alone_is_an_error() -> None:
    def refuse(_: Sequence[int]) -> list[int]:
        raise DeviceMemoryError("too much")

    batcher: Batcher[int, int] = Batcher([refuse], max_batch_size=4, name="test")

    with pytest.raises(DeviceMemoryError):
        await batcher.submit(1)
    await batcher.aclose()


async def test_a_lost_device_is_not_tried_again() -> None:
    calls = []

    def lost(items: Sequence[int]) -> list[int]:
        calls.append(len(items))
        raise DeviceLostError("gone")

    batcher: Batcher[int, int] = Batcher([lost], max_batch_size=4, name="test")
    answers = await asyncio.gather(*map(batcher.submit, range(4)), return_exceptions=True)

    assert all(isinstance(answer, DeviceLostError) for answer in answers)
    assert calls == [4]
    await batcher.aclose()


class Slow(Doubler):
    """Takes long enough for the wait after a batch to be seen."""

    def __call__(self, items: Sequence[int]) -> list[int]:
        time.sleep(0.2)
        return super().__call__(items)


async def test_callers_who_come_back_after_an_answer_share_one_batch() -> None:
    slow = Slow()
    batcher = batcher_of(slow)

    async def client() -> None:
        for _ in range(4):
            await batcher.submit(1)
            await asyncio.sleep(0.001)  # less than a tenth of a batch

    await asyncio.gather(*(client() for _ in range(4)))

    assert [len(batch) for batch in slow.batches][-3:] == [4, 4, 4]
    await batcher.aclose()


async def test_who_is_not_joined_waits_a_tenth_of_a_batch_at_most() -> None:
    slow = Slow()
    batcher = batcher_of(slow)
    await asyncio.gather(*map(batcher.submit, range(4)))
    started_s = time.perf_counter()
    await batcher.submit(1)  # the other three do not come back

    assert time.perf_counter() - started_s < 0.2 * (1 + 2 * PATIENCE) + 0.1
    await batcher.aclose()


async def test_a_wrong_number_of_results_is_an_error() -> None:
    batcher: Batcher[int, int] = Batcher([lambda _: [1, 2]], max_batch_size=4, name="test")

    with pytest.raises(BackendError, match="2 results for 1 items"):
        await batcher.submit(1)
    await batcher.aclose()


async def test_every_batch_is_observed() -> None:
    seen: list[BatchStats] = []
    batcher = batcher_of(Doubler(), observer=seen.append)
    await batcher.submit(1)
    await batcher.aclose()

    assert [stats.size for stats in seen] == [1]
    assert seen[0].queued_s >= 0
    assert seen[0].run_s > 0


async def test_several_runners_work_side_by_side() -> None:
    both_busy = threading.Barrier(2, timeout=10)

    def run(items: Sequence[int]) -> list[int]:
        both_busy.wait()
        return list(items)

    batcher: Batcher[int, int] = Batcher([run, run], max_batch_size=1, name="test")

    assert list(await asyncio.gather(batcher.submit(1), batcher.submit(2))) == [1, 2]
    await batcher.aclose()


async def test_closing_cancels_what_waits() -> None:
    doubler = Doubler()
    doubler.gate.clear()
    batcher = batcher_of(doubler)
    first = asyncio.create_task(batcher.submit(0))
    await doubler.until_busy()
    waiting = asyncio.create_task(batcher.submit(1))
    await asyncio.sleep(0)
    doubler.gate.set()
    await batcher.aclose()

    assert len(batcher) == 0
    with pytest.raises(asyncio.CancelledError):
        await waiting
    first.cancel()

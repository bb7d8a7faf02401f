import asyncio
import threading
from collections.abc import Sequence

import pytest

from inference.batcher import Batcher, BatchObserver, BatchStats, ignore
from inference.errors import BackendError

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


async def test_a_failure_reaches_its_batch_and_no_other() -> None:
    doubler = Doubler()
    batcher = batcher_of(doubler)

    with pytest.raises(BackendError, match="unlucky"):
        await batcher.submit(13)
    assert await batcher.submit(1) == 2
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

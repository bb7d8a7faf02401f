import asyncio

import pytest

from inference.capacity import Capacity
from inference.preprocess_limiter import AHEAD_BYTES, PreprocessLimiter, Slot, Turn
from inference.request import RequestContext

pytestmark = pytest.mark.anyio


def limiter_of(max_busy: int, max_batch_size: int = 1) -> PreprocessLimiter:
    return PreprocessLimiter(max_busy, Capacity(max_batch_size, timeout_s=45))


def turn() -> Turn:
    return Turn([RequestContext()])


async def test_so_many_are_preprocessed_at_a_time() -> None:
    limiter = limiter_of(max_busy=2)
    inside = most = 0

    async def preprocess() -> None:
        nonlocal inside, most
        slot = await limiter.acquire(turn())
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0)
        inside -= 1
        slot.hold(1)
        slot.release()

    await asyncio.gather(*(preprocess() for _ in range(20)))

    assert most == 2
    assert (limiter.busy, limiter.nbytes) == (0, 0)


async def test_no_item_is_admitted_while_preprocessed_items_take_too_much_memory() -> None:
    limiter = limiter_of(max_busy=4)
    slot = await limiter.acquire(turn())
    slot.hold(10 * AHEAD_BYTES)  # larger than all that is allowed: it passes, alone
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await limiter.acquire(turn())
    slot.release()
    async with asyncio.timeout(1):
        (await limiter.acquire(turn())).release()
    assert (limiter.busy, limiter.nbytes) == (0, 0)


async def test_two_batches_of_large_items_may_be_ready_and_less_after_out_of_memory() -> None:
    capacity = Capacity(16, timeout_s=45)
    limiter = PreprocessLimiter(99, capacity)
    limiter.item_nbytes = AHEAD_BYTES // 4

    async def ready() -> int:
        slots: list[Slot] = []

        async def fill() -> None:
            while True:
                slots.append(await limiter.acquire(turn()))
                slots[-1].hold(limiter.item_nbytes)

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(fill(), 0.05)
        for slot in slots:
            slot.release()
        return len(slots)

    assert await ready() == 2 * 16
    capacity.max_batch_size = 4  # as after a batch that did not fit
    assert await ready() == 2 * 4


async def test_waiting_items_are_admitted_in_turns() -> None:
    limiter = limiter_of(max_busy=1)
    order: list[str] = []
    bulk, lone = RequestContext(), RequestContext()

    async def enter(name: str, request: RequestContext) -> None:
        slot = await limiter.acquire(Turn([request]))
        order.append(name)
        await asyncio.sleep(0)
        slot.release()

    tasks = [asyncio.create_task(enter(f"bulk {i}", bulk)) for i in range(20)]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(enter("lone", lone)))
    await asyncio.gather(*tasks)

    assert order.index("lone") <= 4


async def test_an_item_that_is_given_up_takes_no_place() -> None:
    limiter = limiter_of(max_busy=1)
    slot = await limiter.acquire(turn())
    waiting = [asyncio.create_task(limiter.acquire(turn())) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # before its turn
    slot.release()
    waiting[1].cancel()  # after its turn has come, before it has heard of it
    await asyncio.wait(waiting)

    async with asyncio.timeout(1):
        slot = await limiter.acquire(turn())
    assert limiter.busy == 1
    slot.release()
    assert limiter.busy == 0

import asyncio
from contextlib import AsyncExitStack

import pytest

from inference.entrance import Entrance
from inference.fair_queue import Caller, Party

pytestmark = pytest.mark.anyio


async def test_so_many_are_prepared_at_a_time() -> None:
    entrance = Entrance(max_busy=2, max_bytes=100)
    inside = most = 0

    async def prepare() -> None:
        nonlocal inside, most
        async with entrance.entered(Party([Caller()])) as place:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1
            place.prepared(1)

    await asyncio.gather(*(prepare() for _ in range(20)))

    assert most == 2
    assert (entrance.busy, entrance.nbytes) == (0, 0)


async def test_nobody_is_let_in_while_what_is_prepared_takes_too_much_memory() -> None:
    entrance = Entrance(max_busy=4, max_bytes=100)
    async with AsyncExitStack() as held:
        place = await held.enter_async_context(entrance.entered(Party([Caller()])))
        place.prepared(1_000)  # larger than all that is allowed: it passes, alone
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), entrance.entered(Party([Caller()])):
                pass
    async with asyncio.timeout(1), entrance.entered(Party([Caller()])):
        pass
    assert (entrance.busy, entrance.nbytes) == (0, 0)


async def test_those_who_wait_are_let_in_by_turns() -> None:
    entrance = Entrance(max_busy=1, max_bytes=100)
    order: list[str] = []
    bulk, lone = Caller(), Caller()

    async def enter(name: str, caller: Caller) -> None:
        async with entrance.entered(Party([caller])):
            order.append(name)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(enter(f"bulk {i}", bulk)) for i in range(20)]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(enter("lone", lone)))
    await asyncio.gather(*tasks)

    assert order.index("lone") <= 4


async def test_one_who_gives_up_takes_no_place() -> None:
    entrance = Entrance(max_busy=1, max_bytes=100)
    async with entrance.entered(Party([Caller()])):
        waiting = [
            asyncio.create_task(entrance.entered(Party([Caller()])).__aenter__()) for _ in range(2)
        ]
        await asyncio.sleep(0)
        waiting[0].cancel()  # before its turn
    waiting[1].cancel()  # after its turn has come, before it has heard of it
    await asyncio.wait(waiting)

    async with asyncio.timeout(1), entrance.entered(Party([Caller()])):
        assert entrance.busy == 1
    assert entrance.busy == 0

import asyncio
from collections.abc import Callable

import pytest

from inference.tasks import all_or_first_error, background

pytestmark = pytest.mark.anyio


async def test_all_come_back_in_their_order() -> None:
    async def after(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    assert await all_or_first_error([after(0.02), after(0), after(0.01)]) == [0.02, 0, 0.01]


async def test_the_first_error_gives_the_others_up() -> None:
    given_up = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await all_or_first_error([wait(), fail()])
    assert given_up.is_set()


async def ended(work: Callable[[], None]) -> None:
    async def do() -> None:
        work()

    await asyncio.wait([background(do(), "the work")])
    await asyncio.sleep(0)


async def test_what_nobody_waits_for_says_that_it_failed(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ZeroDivisionError("no")

    await ended(lambda: None)
    assert not caplog.records
    await ended(fail)

    assert [record.getMessage() for record in caplog.records] == ["The task the work has ended: no"]

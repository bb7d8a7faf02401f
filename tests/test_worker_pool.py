import asyncio
import concurrent.futures
import contextlib
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from errors import UnhealthyError
from inference import worker_pool
from inference.health import Health
from inference.worker_pool import WorkerPool
from tests.fakes import Clock

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(longest_job_s=45, clock=clock)


@pytest.fixture
async def pool(health: Health) -> AsyncIterator[WorkerPool]:
    pool = WorkerPool(1, "test", health.monitor("test"))
    yield pool
    await pool.aclose()


class Gate:
    """A job that waits to be let through."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.opened = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.opened.wait(10)
        return "through"


async def test_a_job_is_done_in_a_thread_of_the_pool(pool: WorkerPool) -> None:
    def name_and(number: int, *, more: int) -> tuple[str, int]:
        return threading.current_thread().name, number + more

    assert await pool.run(name_and, 1, more=2) == ("test-0", 3)


async def test_jobs_run_side_by_side_in_as_many_threads(health: Health) -> None:
    pool = WorkerPool(3, "test", health.monitor("test"))
    together = threading.Barrier(3, timeout=10)
    places = await asyncio.gather(*(pool.run(together.wait) for _ in range(3)))
    await pool.aclose()

    assert sorted(places) == [0, 1, 2]


@pytest.mark.parametrize(
    "error",
    [
        BaseException("a panic"),
        StopIteration("no more"),
        concurrent.futures.CancelledError("a future"),
        asyncio.CancelledError("a task"),
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_job_raises_is_its_answer_and_the_thread_works_on(
    pool: WorkerPool, error: BaseException
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(Exception) as raised:  # noqa: PT011 - an Exception is the point
        await asyncio.wait_for(pool.run(fail), 5)
    assert error in (raised.value, raised.value.__cause__)
    assert await pool.run(lambda: "well") == "well"


async def test_what_is_given_up_before_it_began_is_never_done(pool: WorkerPool) -> None:
    gate = Gate()
    done: list[str] = []
    first = asyncio.create_task(pool.run(gate))
    await asyncio.to_thread(gate.begun.wait, 10)
    given_up, kept = (asyncio.create_task(pool.run(done.append, name)) for name in "ab")
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.sleep(0)
    gate.opened.set()
    await asyncio.gather(first, kept)

    assert done == ["b"]


async def test_a_job_that_hangs_is_seen_and_one_that_waits_is_not(
    pool: WorkerPool, health: Health, clock: Clock
) -> None:
    gate = Gate()
    given_up = asyncio.create_task(pool.run(gate))
    await asyncio.to_thread(gate.begun.wait, 10)
    given_up.cancel()  # it hangs all the same
    clock.now_s = 46
    seen = [health.hanging, health.dead]
    clock.now_s = 136
    seen.append(health.dead)
    waits = asyncio.create_task(pool.run(lambda: None))
    gate.opened.set()
    await waits

    hanging = "test: a job has not ended for"
    assert seen == [f"{hanging} 46 s", None, f"{hanging} 136 s, start the service anew"]
    assert health.unready is None


async def test_closing_refuses_what_waits_and_what_comes_and_lets_the_running_end(
    pool: WorkerPool,
) -> None:
    gate = Gate()
    asked = [asyncio.create_task(pool.run(gate)) for _ in range(2)]
    await asyncio.to_thread(gate.begun.wait, 10)
    closing = asyncio.create_task(pool.aclose())
    refused = await asyncio.gather(*asked, return_exceptions=True)
    with pytest.raises(UnhealthyError):
        await pool.run(gate)
    assert not closing.done()
    gate.opened.set()
    await asyncio.wait_for(closing, 5)

    assert all(isinstance(answer, UnhealthyError) for answer in refused)


async def test_closing_does_not_wait_for_ever_and_never_holds_up_the_event_loop(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "_LAST_JOBS_S", 0.2)
    gate = Gate()
    given_up = asyncio.create_task(pool.run(gate))
    await asyncio.to_thread(gate.begun.wait, 10)
    given_up.cancel()
    closing = asyncio.create_task(pool.aclose())
    passes = 0
    while not closing.done():
        await asyncio.sleep(0.01)
        passes += 1
    gate.opened.set()

    assert passes > 5


@pytest.mark.usefixtures("without_collector")
async def test_the_last_job_and_its_error_stay_in_no_memory(pool: WorkerPool) -> None:
    class Image:
        pass

    def fail(_: Image) -> None:
        raise ZeroDivisionError

    async def ask() -> weakref.ref[Image]:
        image = Image()
        with contextlib.suppress(ZeroDivisionError):
            await pool.run(fail, image)
        return weakref.ref(image)

    image = await ask()
    await asyncio.sleep(0.05)  # the thread has its own end to come to
    assert image() is None


def test_a_thread_that_hangs_keeps_no_process() -> None:
    program = """
import asyncio, threading
from inference import worker_pool
from inference.health import Monitor

async def main():
    worker_pool._LAST_JOBS_S = 0.1
    pool = worker_pool.WorkerPool(1, "test", Monitor("test"))
    job = asyncio.create_task(pool.run(threading.Event().wait))
    await asyncio.sleep(0.1)
    job.cancel()
    await pool.aclose()

asyncio.run(main())
"""
    started_s = time.monotonic()
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=20, check=True)

    assert time.monotonic() - started_s < 10

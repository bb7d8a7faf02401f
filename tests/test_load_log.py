import asyncio
import logging
from collections import Counter

import pytest

from inference.capacity import BatchStats
from tests.fakes import Clock
from web.load_log import LoadLog
from web.record import RequestRecord

pytestmark = pytest.mark.anyio


def test_the_line_tells_rate_batch_size_and_queue_since_the_last_one() -> None:
    clock = Clock(1000.0)
    log = LoadLog(lambda: {"text": 2, "image": 7}, clock=clock)
    for _ in range(120):
        log.observe_request(RequestRecord(items=Counter(["text", "image", "image"])))
    for size in (4, 8):
        log.observe_batch("image", BatchStats(size, 0.1))
    clock.now_s += 60

    assert log.line() == (
        "2.0 requests/s, 6.0 items/s; image batches of 6.0 on average; queued now: 2 text, 7 image"
    )
    clock.now_s += 60
    assert log.line() is None


async def test_it_is_logged_again_and_again_and_nothing_when_idle(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    asked = asyncio.Event()
    idle_minutes = 0

    class Counting(LoadLog):
        def line(self) -> str | None:
            nonlocal idle_minutes
            line = super().line()
            idle_minutes += line is None
            if idle_minutes > 2:
                asked.set()
            return line

    log = Counting(lambda: {"text": 0})
    log.observe_request(RequestRecord(items=Counter(["text"])))
    task = asyncio.create_task(log.run(every_s=0))
    await asyncio.wait_for(asked.wait(), 10)
    task.cancel()

    assert [record.message[:6] for record in caplog.records] == ["Load: "]

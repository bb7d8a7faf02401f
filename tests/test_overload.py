"""Ten times what it can bear: who is let in is answered in time, who is not hears so at once."""

import asyncio
import gc
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from bench.client import Answer, Connection
from bench.load import arrivals, percentile
from bench.service import resident_mb
from bench.wire import Request
from tests import crowd
from tests.crowd import Item
from tests.fakes import vector_of
from tests.image_files import base64_of, file_of
from tests.service import Service, running
from tests.slow_service import IMAGE_S

TIMEOUT_S = 8.0
TENFOLD = 10 / IMAGE_S


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    command = (sys.executable, "-m", "tests.slow_service")
    with running(tmp_path / "log", command, REQUEST_TIMEOUT_S=TIMEOUT_S) as service:
        yield service


def image(number: int) -> Image.Image:
    return Image.frombytes("RGB", (8, 8), number.to_bytes(4, "big") * 48)


@dataclass(frozen=True)
class Asked:
    """One request of the storm: the vector of an image that nobody else sends."""

    number: int
    seconds: float
    answer: Answer

    def check(self) -> None:
        """Fail if it was answered something else than its own vector, or why not."""
        body = json.loads(self.answer.body)
        if self.answer.status == 200:
            wanted = vector_of(image(self.number).tobytes()).tolist()
            assert body["imageVectors"] == [pytest.approx(wanted)]
        else:
            assert self.answer.status == 429
            assert "overloaded" in body["error"]


async def ask(service: Service, number: int, request: Request, idle: list[Connection]) -> Asked:
    """Send one request of the storm."""
    connection = idle.pop() if idle else Connection(crowd.target_of(service))
    started_s = time.perf_counter()
    answer = await connection.ask(request)
    seconds = time.perf_counter() - started_s
    idle.append(connection)
    return Asked(number, seconds, answer)


def request_number(number: int) -> Request:
    return crowd.request_of([Item("images", base64_of(file_of(image(number), "PPM")))])


async def search(service: Service, stop: asyncio.Event) -> list[float]:
    """Ask for a text after the other; return the seconds of each."""
    seconds: list[float] = []
    connection = Connection(crowd.target_of(service))
    while not stop.is_set():
        request = crowd.request_of([Item("texts", f"search {len(seconds)}")])
        started_s = time.perf_counter()
        assert (await connection.ask(request)).status == 200
        seconds.append(time.perf_counter() - started_s)
        await asyncio.sleep(0.02)
    connection.close()
    return seconds


async def storm(service: Service, seconds: float) -> tuple[list[Asked], list[float], list[float]]:
    """Send ten times the capacity; return the requests, the searches and ready's times."""
    # What the clients do besides shall not count as the service's time.
    due = list(arrivals(TENFOLD, seconds, seed=0))
    requests = [request_number(number) for number in range(len(due))]
    gc.freeze()
    stop, idle = asyncio.Event(), list[Connection]()
    searches = asyncio.create_task(search(service, stop))
    ready = asyncio.create_task(crowd.ready_times(service, stop))
    asked: list[asyncio.Task[Asked]] = []
    begin_s = time.perf_counter()
    for number, due_s in enumerate(due):
        await asyncio.sleep(max(0, begin_s + due_s - time.perf_counter()))
        asked.append(asyncio.create_task(ask(service, number, requests[number], idle)))
    answers = await asyncio.gather(*asked)
    for connection in idle:
        connection.close()
    stop.set()
    return answers, await searches, await ready


def assert_weathers(service: Service, seconds: float, share: float) -> str:
    """Weather a storm; `share` percent of the refusals and of ready's answers must be in time."""
    before_mb = resident_mb(service.process.pid, "VmRSS")
    answers, searches, ready = asyncio.run(storm(service, seconds))
    accepted = [asked.seconds for asked in answers if asked.answer.status == 200]
    refused = [asked.seconds for asked in answers if asked.answer.status == 429]

    for asked in answers:
        asked.check()  # nobody timed out, nothing broke, every vector is right
    assert len(accepted) > 0.8 * seconds / IMAGE_S  # and the model was kept busy
    assert max(accepted) < TIMEOUT_S
    assert percentile(refused, share) < 0.1
    assert percentile(ready, share) < 0.5
    assert percentile(searches, 50) < 0.1
    grown_mb = resident_mb(service.process.pid, "VmRSS") - before_mb
    assert grown_mb < 100
    return (
        f"{len(answers)} requests in {seconds:.0f} s: {len(accepted)} answered, the slowest in "
        f"{max(accepted):.2f} s of {TIMEOUT_S:g}; {len(refused)} refused, 99 % within "
        f"{1e3 * percentile(refused, 99):.0f} ms, the slowest in {1e3 * max(refused):.0f} ms; "
        f"ready within {1e3 * max(ready):.0f} ms; searches' median "
        f"{1e3 * percentile(searches, 50):.0f} ms; {grown_mb:.0f} MB more memory"
    )


def test_ten_times_the_load_for_some_seconds(service: Service) -> None:
    # The clients share the cores with the service, and tests run beside other work: the promised
    # times are held by most here, and by 99 % in the long form, which wants a quiet machine.
    print(assert_weathers(service, seconds=8, share=75))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_ten_times_the_load_for_a_minute(service: Service) -> None:
    print(assert_weathers(service, seconds=60, share=99))

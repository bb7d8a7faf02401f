"""A fault at every step of a scheduler: each request is answered, and health reports it."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from backends.model import Rows, Vector
from config import Settings
from errors import UnhealthyError
from inference import worker
from inference.capacity import Capacity
from inference.fair_queue import FairQueue
from inference.health import Monitor
from inference.scheduler import Scheduler
from inference.work import WorkItem
from tests.asgi import serving
from tests.fakes import FakeModel, vector_of, vectorize
from tests.image_files import base64_of, plain
from vectorizer import Vectorizer
from web.load_log import LoadLog
from web.metrics import Metrics

pytestmark = pytest.mark.anyio

TIMEOUT_S = 5.0
POISON = (1, 2, 3)
GOOD = [(number, 0, 0) for number in range(4)]


class Panic(BaseException):
    """What a library written in Rust raises."""


FAULTS: dict[str, type[BaseException]] = {
    "exception": ZeroDivisionError,
    "panic": Panic,
    "stop-iteration": StopIteration,
    "cancelled-future": concurrent.futures.CancelledError,
}


def pixels_of(colour: tuple[int, int, int]) -> bytes:
    return Image.new("RGB", (8, 8), colour).tobytes()


class Eyes(FakeModel):
    """Raises at a step where it meets the poison; its gates hold up the passes and the threads."""

    def __init__(self, fault: type[BaseException] = ValueError, step: str = "") -> None:
        super().__init__()
        self._fault = fault
        self._step = step
        self.preprocessing = threading.Event()
        self.eyelid = threading.Event()
        self.eyelid.set()

    def preprocess(self, image: Image.Image) -> bytes:
        pixels = super().preprocess(image)
        self.preprocessing.set()
        assert self.eyelid.wait(10)
        if self._step == "prepare" and pixels == pixels_of(POISON):
            raise self._fault("injected")
        return pixels

    def encode_image(self, batch: Sequence[bytes]) -> Rows:
        vectors = super().encode_image(batch)
        if pixels_of(POISON) in batch:
            if self._step == "compute" or (self._step == "halve" and len(batch) == 1):
                raise self._fault("injected")
            if self._step == "halve":
                raise ValueError("the whole batch")
        return vectors


def raising_once(fault: type[BaseException], function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that raises when it is first called."""
    faults = [fault("injected")]

    def call(*args: Any, **kwargs: Any) -> Any:
        if faults:
            raise faults.pop()
        return function(*args, **kwargs)

    return call


async def ask(client: httpx.AsyncClient, colour: tuple[int, int, int]) -> httpx.Response:
    return await client.post("/vectorize", json={"images": [base64_of(plain(colour))]})


async def probes(client: httpx.AsyncClient) -> tuple[int, int]:
    live, ready = [await client.get(f"/.well-known/{name}") for name in ("live", "ready")]
    return live.status_code, ready.status_code


def is_right(answer: httpx.Response, colour: tuple[int, int, int]) -> bool:
    wanted = pytest.approx(vector_of(pixels_of(colour)).tolist())
    return answer.status_code == 200 and answer.json()["imageVectors"] == [wanted]


async def ask_all(
    client: httpx.AsyncClient, backend: Eyes, colours: Sequence[tuple[int, int, int]]
) -> list[httpx.Response]:
    """Ask for one image, and for the rest while it is computed, so that they share a batch."""
    backend.gate.clear()
    first = asyncio.create_task(ask(client, (9, 9, 9)))
    await asyncio.to_thread(backend.busy.wait, 10)
    rest = [asyncio.create_task(ask(client, colour)) for colour in colours]
    await until_queued(client, 1 + len(colours))
    backend.gate.set()
    async with asyncio.timeout(TIMEOUT_S):
        assert is_right(await first, (9, 9, 9)) or first.result().status_code == 503
        return await asyncio.gather(*rest)


async def until_queued(client: httpx.AsyncClient, count: int) -> None:
    for _ in range(20):  # once through the decode pool, and into the queue
        await asyncio.sleep(0.005)
        if (
            f'inference_queue_items{{modality="image"}} {count}.0'
            in (await client.get("/metrics")).text
        ):
            await asyncio.sleep(0.02)
            return


async def assert_well(client: httpx.AsyncClient) -> None:
    assert await probes(client) == (204, 204)
    async with asyncio.timeout(TIMEOUT_S):
        assert is_right(await ask(client, (7, 7, 7)), (7, 7, 7))
        assert (await client.post("/vectorize", json={"texts": ["a"]})).status_code == 200


async def assert_dead(client: httpx.AsyncClient) -> None:
    assert await probes(client) == (503, 503)
    reason = (await client.get("/.well-known/live")).json()["error"]
    assert reason.startswith("the image scheduler has ended, start the service anew: ")
    async with asyncio.timeout(1):
        assert (await ask(client, (7, 7, 7))).json() == {"error": reason}


# --- what a batch raises is that batch's failure


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("step", ["prepare", "compute", "rows", "halve"])
async def test_a_fault_of_one_item_is_its_own(
    fault: type[BaseException], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(row: Rows, pooling_index: int) -> Vector | Exception:
        if step == "rows" and np.array_equal(row, vector_of(pixels_of(POISON))):
            raise fault("injected")
        return checked(row, pooling_index)

    checked = worker._checked
    monkeypatch.setattr(worker, "_checked", check)
    backend = Eyes(fault, step)
    async with serving(backend) as client:
        *good, bad = await ask_all(client, backend, [*GOOD, POISON])

        assert bad.status_code == 500
        assert isinstance(bad.json()["error"], str)
        assert all(map(is_right, good, GOOD))
        await assert_well(client)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_fault_on_the_way_into_the_queue_is_the_requests_own(
    fault: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(Eyes()) as client:
        monkeypatch.setattr(FairQueue, "put", raising_once(fault, FairQueue.put))
        async with asyncio.timeout(TIMEOUT_S):
            bad = await ask(client, POISON)

        assert bad.status_code == 500
        assert isinstance(bad.json()["error"], str)
        await assert_well(client)


# --- what an observer raises is nobody's


OBSERVERS: dict[str, tuple[type, str]] = {
    "metrics of a batch": (Metrics, "observe_batch"),
    "metrics of a request": (Metrics, "observe_request"),
    "log of a batch": (LoadLog, "observe_batch"),
    "log of a request": (LoadLog, "observe_request"),
    "measured rate": (Capacity, "observe"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("name", OBSERVERS)
async def test_a_fault_of_an_observer_changes_nothing(
    fault: type[BaseException],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise fault("injected")

    kind, method = OBSERVERS[name]
    monkeypatch.setattr(kind, method, fail)
    backend = Eyes()
    async with serving(backend) as client:
        answers = await ask_all(client, backend, GOOD)
        counted = (await client.get("/metrics")).text

        assert all(map(is_right, answers, GOOD))
        await assert_well(client)
    assert "inference_observer_failures_total 0" not in counted
    assert "An observer failed" in caplog.text


# --- a fault of the scheduler itself ends it, and all are told


LANE: dict[str, tuple[Any, str]] = {
    "form a batch": (Scheduler, "_take"),
    "linger": (Scheduler, "_linger"),
    "deliver": (WorkItem, "add_row"),
    "tell the health": (Monitor, "batch_succeeded"),
    "end a batch": (Scheduler, "_batch_ended"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("step", LANE)
async def test_a_fault_of_the_scheduler_itself_is_reported_to_all(
    fault: type[BaseException], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, name = LANE[step]
    backend = Eyes()
    async with serving(backend) as client:
        monkeypatch.setattr(place, name, raising_once(fault, getattr(place, name)))
        if step == "form a batch":
            async with asyncio.timeout(TIMEOUT_S):
                answers = await asyncio.gather(*(ask(client, colour) for colour in GOOD))
        else:
            answers = await ask_all(client, backend, GOOD)

        assert [answer.status_code for answer in answers] == [503] * len(GOOD)
        await assert_dead(client)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_fault_while_a_failure_is_delivered_is_reported_to_all(
    fault: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Eyes(step="halve")
    async with serving(backend) as client:
        monkeypatch.setattr(WorkItem, "fail", raising_once(fault, WorkItem.fail))
        answers = await ask_all(client, backend, [*GOOD, POISON])

        assert {answer.status_code for answer in answers} <= {200, 503}
        assert answers[-1].status_code == 503
        await assert_dead(client)


# --- cancelled in the middle of each step: the caller, or the scheduler


def held_up(function: Callable[..., Any], then: Callable[[], object]) -> Callable[..., Any]:
    """Return a function that does something of its own first."""

    def call(*args: Any, **kwargs: Any) -> Any:
        then()
        return function(*args, **kwargs)

    return call


def worker_of(name: str) -> asyncio.Task[Any]:
    return next(task for task in asyncio.all_tasks() if task.get_name() == f"{name}-worker")


class Halving(Eyes):
    """Fails a batch, and is held up by its gate in the passes of the halves."""

    def encode_image(self, batch: Sequence[bytes]) -> Rows:
        if len(batch) == 1 + len(GOOD):
            self.gate.clear()
            self.busy.set()
            raise ValueError("the whole batch")
        return super().encode_image(batch)


@pytest.mark.parametrize("step", ["prepare", "queue", "compute", "deliver", "observe", "halve"])
async def test_a_caller_who_leaves_in_the_middle_of_a_step_harms_nobody(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Halving() if step == "halve" else Eyes()
    async with serving(backend) as client:
        asked: list[asyncio.Task[httpx.Response]] = []

        def leave() -> None:
            asked[-1].cancel()

        if step == "deliver":
            monkeypatch.setattr(WorkItem, "add_row", held_up(WorkItem.add_row, leave))
        if step == "observe":
            monkeypatch.setattr(Capacity, "observe", held_up(Capacity.observe, leave))
        (backend.eyelid if step == "prepare" else backend.gate).clear()
        asked += [asyncio.create_task(ask(client, (9, 9, 9)))]
        if step != "prepare":
            await asyncio.to_thread(backend.busy.wait, 10)
        backend.busy.clear()
        asked += [asyncio.create_task(ask(client, colour)) for colour in [*GOOD, POISON]]
        await until_queued(client, 6)
        if step == "halve":
            backend.gate.set()
            await asyncio.to_thread(backend.busy.wait, 10)
        leave()
        backend.eyelid.set()
        backend.gate.set()
        async with asyncio.timeout(TIMEOUT_S):
            answers = await asyncio.gather(*asked, return_exceptions=True)

        assert isinstance(answers.pop(), asyncio.CancelledError)
        good = [answer for answer in answers if isinstance(answer, httpx.Response)]
        assert [is_right(*pair) for pair in zip(good, [(9, 9, 9), *GOOD], strict=True)] == [
            True
        ] * 5
        await assert_well(client)


@pytest.mark.parametrize("step", ["idle", "linger", "compute", "halve"])
async def test_a_scheduler_that_is_cancelled_in_the_middle_of_a_step_answers_all(step: str) -> None:
    backend = Halving() if step == "halve" else Eyes()
    async with serving(backend) as client:
        if step == "idle":
            await ask(client, (9, 9, 9))
            worker_of("image").cancel()
            await asyncio.sleep(0.01)
            await assert_dead(client)
            return
        backend.gate.clear()
        asked = [asyncio.create_task(ask(client, (9, 9, 9)))]
        await asyncio.to_thread(backend.busy.wait, 10)
        backend.busy.clear()
        asked += [asyncio.create_task(ask(client, colour)) for colour in [*GOOD, POISON]]
        await until_queued(client, 6)
        if step == "halve":
            backend.gate.set()
            await asyncio.to_thread(backend.busy.wait, 10)
        worker_of("image").cancel()
        async with asyncio.timeout(1):  # though the pass still runs
            answers = await asyncio.gather(*asked)

        backend.gate.set()
        assert {answer.status_code for answer in answers[1:]} == {503}
        await assert_dead(client)


# --- a scheduler that dies: who waits, who comes, and the drain


async def test_a_dead_scheduler_answers_who_waits_refuses_who_comes_and_drains() -> None:
    replicas = [FakeModel(), FakeModel()]
    for replica in replicas:
        replica.gate.clear()
    vectorizer = Vectorizer([replica.model for replica in replicas], Settings(max_batch_size=1))
    asked = [asyncio.create_task(vectorize(vectorizer, [text], [])) for text in "abcd"]
    for replica in replicas:
        await asyncio.to_thread(replica.busy.wait, 10)
    worker_of("text").cancel()
    async with asyncio.timeout(1):
        answers = await asyncio.gather(*asked, return_exceptions=True)
        with pytest.raises(UnhealthyError):
            await vectorize(vectorizer, ["e"], [])
    for replica in replicas:
        replica.gate.set()
    async with asyncio.timeout(1):
        await vectorizer.aclose()

    assert all(isinstance(answer, UnhealthyError) for answer in answers)
    assert all(len(replica.text_batches) == 1 for replica in replicas)  # and no more


async def test_a_scheduler_answers_on_while_another_fault_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(Eyes()) as client:
        await ask(client, (9, 9, 9))
        worker_of("image").cancel()
        await asyncio.sleep(0.01)

    assert "the image scheduler has ended: its task was cancelled. This is a bug." in caplog.text

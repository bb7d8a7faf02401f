"""MODELS_ON_DEMAND: when a model is loaded and unloaded, and what requests get meanwhile."""

import asyncio
import random
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import on_demand
import on_demand_model
import vectorizer
from backends import jobs
from backends.conversion import conversion_cache
from backends.load import needs_conversion
from backends.model import Model, Rows
from config import Settings
from errors import DeviceLostError, ModelFolderError, NotLoadedError
from on_demand import OnDemand
from tests import asgi
from tests.asgi import client_of
from tests.fakes import Clock, FakeModel
from tests.golden_texts import GOLDEN_TEXTS
from tests.several import PAIR, AnyFake, BeforeLoad, Named, Texts, app_of, serving, text_of
from vectorizer import Vectorizer

pytestmark = pytest.mark.anyio

SIZE = 1000  # bytes that each model takes


class Loads:
    """Counts loads, holds them up, and lets some of them fail."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: dict[str, Exception] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.began = asyncio.Event()

    async def __call__(self, name: str) -> None:
        self.counts[name] += 1
        self.began.set()
        await self.gate.wait()
        if fault := self.faults.get(name):
            raise fault

    async def held_up(self, client: httpx.AsyncClient, name: str) -> asyncio.Task[httpx.Response]:
        """Begin a request whose load ends once the gate opens."""
        self.gate.clear()
        self.began.clear()
        request = asyncio.create_task(ask(client, name))
        await self.began.wait()
        return request


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which nothing is converted, and each load takes SIZE bytes."""
    taken = iter(range(0, 10**9, SIZE))
    monkeypatch.setattr(on_demand, "needs_conversion", lambda _: False)
    monkeypatch.setattr(on_demand, "stored_bytes", lambda _: SIZE // 2)
    monkeypatch.setattr(on_demand, "resident_bytes", lambda: next(taken))
    monkeypatch.setattr(on_demand, "_free_memory", lambda: None)  # it takes half a second
    monkeypatch.setattr(on_demand, "_WATCH_S", 0.01)
    monkeypatch.setattr(on_demand_model, "_WATCH_S", 0.01)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of loads and of the pauses between them."""
    clock = Clock(1000.0)
    monkeypatch.setattr(on_demand_model, "monotonic", clock)
    return clock


@pytest.fixture
async def loads() -> Loads:
    return Loads()


def served(
    root: Path, fakes: Sequence[AnyFake], loads: BeforeLoad, **settings: Any
) -> AbstractAsyncContextManager[httpx.AsyncClient]:
    return serving(
        root, fakes, before_load=loads, default_model="clip", models_on_demand=True, **settings
    )


async def ask(client: httpx.AsyncClient, name: str, text: str = "a") -> httpx.Response:
    if name == "rerank":
        return await client.post("/m/rerank/rerank", json=PAIR)
    return await client.post(f"/m/{name}/vectorize", json={"texts": [text]})


async def busy_with(client: httpx.AsyncClient, fake: AnyFake) -> asyncio.Task[httpx.Response]:
    """Load a model, and begin a request that it answers once its gate opens."""
    await ask(client, fake.name)
    fake.gate.clear()
    fake.busy.clear()
    request = asyncio.create_task(ask(client, fake.name, "another"))
    assert await asyncio.to_thread(fake.busy.wait, 10)
    return request


async def loaded(client: httpx.AsyncClient) -> set[str]:
    models = (await client.get("/meta")).json()["service"]["models"]
    return {one["name"] for one in models if one["loaded"]}


async def until_loaded(client: httpx.AsyncClient, names: set[str]) -> None:
    async with asyncio.timeout(10):
        while await loaded(client) != names:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_nothing_but_a_request_for_it_loads_a_model(
    fakes: Sequence[AnyFake], loads: Loads, tmp_path: Path
) -> None:
    routes = ("/.well-known/live", "/.well-known/ready", "/health", "/meta", "/metrics")
    lists = ("/v1/models", "/api/tags", "/info", "/openapi.json", "/docs", "/")
    async with served(tmp_path, fakes, loads) as client:
        asked = [f"{prefix}{route}" for prefix in ("", "/m/minilm") for route in routes + lists]
        statuses = {path: (await client.get(path)).status_code for path in asked}
        described = (await client.get("/m/minilm/meta")).json()["service"]
        assert loads.counts == {}
        first = await ask(client, "minilm")

        assert await loaded(client) == {"minilm"}

    assert set(statuses.values()) == {200, 204}
    assert (described["model"], described["modalities"]) == ("minilm", ["text"])
    np.testing.assert_array_equal(text_of(first), Texts("minilm").vector_of("a"))
    assert loads.counts == {"minilm": 1}


async def test_requests_at_once_load_a_model_once(
    fakes: Sequence[AnyFake], loads: Loads, tmp_path: Path
) -> None:
    async with served(tmp_path, fakes, loads) as client:
        answers = await asyncio.gather(*(ask(client, "clip", f"{i}") for i in range(20)))

    assert {answer.status_code for answer in answers} == {200}
    assert loads.counts == {"clip": 1}


async def test_a_load_holds_up_no_request_for_another_model(
    fakes: Sequence[AnyFake], loads: Loads, tmp_path: Path
) -> None:
    async with served(tmp_path, fakes, loads) as client:
        await ask(client, "clip")
        waiting = await loads.held_up(client, "minilm")
        others = [await ask(client, "clip", f"text {i}") for i in range(3)]
        probes = [await client.get(f"/m/{name}/health") for name in ("clip", "minilm")]
        was_waiting = not waiting.done()
        loads.gate.set()
        late = await waiting

    assert was_waiting
    assert {answer.status_code for answer in (*others, late)} == {200}
    assert {answer.status_code for answer in probes} == {204}


async def test_a_client_that_goes_ends_no_load(
    fakes: Sequence[AnyFake], loads: Loads, tmp_path: Path
) -> None:
    async with served(tmp_path, fakes, loads, request_timeout_s=0.1) as client:
        loads.gate.clear()
        late = await ask(client, "clip")
        loads.gate.set()
        await until_loaded(client, {"clip"})

    assert late.status_code == 504
    assert loads.counts == {"clip": 1}


async def test_a_load_that_fails_is_tried_again_later(
    fakes: Sequence[AnyFake], loads: Loads, tmp_path: Path, clock: Clock
) -> None:
    clock.now_s = 0.0
    loads.faults["minilm"] = ModelFolderError("the folder is gone")
    async with served(tmp_path, fakes, loads) as client:
        pauses = []
        for _ in range(6):
            first, second = await ask(client, "minilm"), await ask(client, "minilm")
            assert (first.status_code, second.status_code) == (503, 503)
            assert first.json()["error"] == ("model minilm could not be loaded: the folder is gone")
            assert (await client.get("/m/minilm/health")).status_code == 503
            assert (await client.get("/m/clip/health")).status_code == 204
            pauses.append(int(second.headers["retry-after"]))
            clock.now_s += pauses[-1]
        assert loads.counts["minilm"] == 6
        assert (await ask(client, "clip")).status_code == 200
        loads.faults.clear()
        fine = await ask(client, "minilm")
        ready = await client.get("/m/minilm/health")

    assert pauses == [30, 60, 120, 240, 300, 300]
    assert (fine.status_code, ready.status_code) == (200, 204)


async def test_the_service_is_ready_as_long_as_a_model_can_answer(
    fakes: Sequence[AnyFake], loads: Loads, tmp_path: Path
) -> None:
    names = [fake.name for fake in fakes]
    ready, errors = [], []
    async with served(tmp_path, fakes, loads) as client:
        for name in names:
            loads.faults[name] = ModelFolderError("the folder is gone")
            await ask(client, name)
            answer = await client.get("/.well-known/ready")
            ready.append(answer.status_code)
            errors.append(answer.text)

    assert ready == [204, 204, 503]
    assert f"{names[0]}: could not be loaded: the folder is gone" in errors[-1]


async def test_a_load_that_fails_is_told_while_another_model_is_loaded(
    fakes: Sequence[AnyFake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_demand_model, "_WATCH_S", 60)  # only the end of the load wakes a request
    gate = asyncio.Event()

    async def before_load(name: str) -> None:
        if name == "clip":
            await gate.wait()
        if name == "minilm":
            await asyncio.sleep(0.1)  # meanwhile the other model waits for its turn
            raise ModelFolderError("the folder is gone")

    async with served(tmp_path, fakes, before_load) as client:
        await ask(client, "rerank")  # by its end all models are looked up
        failing, loading = (asyncio.create_task(ask(client, name)) for name in ("minilm", "clip"))
        async with asyncio.timeout(10):
            refused = await failing
        was_loading = not loading.done()
        gate.set()
        answer = await loading

    assert was_loading
    assert (refused.status_code, answer.status_code) == (503, 200)
    assert "the folder is gone" in refused.json()["error"]


async def test_a_model_is_not_loaded_before_it_is_converted(
    fakes: Sequence[AnyFake], loads: Loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_converted: list[str] = ["clip"]
    asked: list[tuple[str, str]] = []

    def needs_conversion(settings: Settings) -> bool:
        asked.append((settings.models_dir.name, "looked up"))
        return settings.models_dir.name not in is_converted

    def convert_ahead(settings: Settings) -> None:
        asked.append((settings.models_dir.name, "converted"))
        while settings.models_dir.name not in is_converted:
            time.sleep(0.01)

    monkeypatch.setattr(on_demand, "needs_conversion", needs_conversion)
    monkeypatch.setattr(on_demand, "convert_ahead", convert_ahead)
    async with served(tmp_path, fakes, loads) as client:
        while len(asked) < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        fine, early = await ask(client, "clip"), await ask(client, "minilm")
        ready = await client.get("/m/minilm/health")
        is_converted += ["minilm", "rerank"]
        while (late := await ask(client, "rerank")).status_code == 503:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    assert (fine.status_code, early.status_code, ready.status_code) == (200, 503, 204)
    assert "is being converted" in early.json()["error"]
    assert early.headers["retry-after"] == "10"
    assert late.status_code == 200
    assert asked == [
        *((name, "looked up") for name in ("clip", "minilm", "rerank")),
        *((name, "converted") for name in ("minilm", "rerank")),
    ]


async def test_a_load_on_demand_converts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after the conversion in the background has failed."""
    allowed: list[bool] = []

    def load_model(_: Settings, *, converts: bool = True) -> list[Model]:
        allowed.append(converts)
        return [Named("clip").model]

    monkeypatch.setattr(vectorizer, "load_model", load_model)
    settings = Settings(models_dir=tmp_path)
    owner = OnDemand(settings, {"clip": settings}, vectorizer.load_vectorizer)
    await owner.models["clip"].load()
    await owner.aclose()
    at_start = await vectorizer.load_vectorizer(settings)
    await at_start.aclose()

    assert allowed == [False, True]


# --- loads that hang, and models that die


async def test_a_load_that_hangs_is_told_by_its_probe_and_stops_no_other(
    fakes: Sequence[AnyFake], loads: Loads, tmp_path: Path
) -> None:
    _, minilm, _ = fakes
    assert isinstance(minilm, Named)
    minilm.is_readable.clear()
    async with served(tmp_path, fakes, loads, request_timeout_s=2) as client:
        late = await ask(client, "minilm")
        async with asyncio.timeout(10):
            while (await client.get("/m/minilm/health")).status_code == 204:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        ready = await client.get("/m/minilm/.well-known/ready")
        alive = await client.get("/m/minilm/.well-known/live")
        refused = await ask(client, "minilm")
        others = [await ask(client, "clip"), await ask(client, "rerank")]
        probes = [await client.get(f"/m/{name}/health") for name in ("clip", "rerank")]
        minilm.is_readable.set()
        await until_loaded(client, {"clip", "minilm", "rerank"})
        answers = [await ask(client, "minilm"), await client.get("/m/minilm/health")]

    # The time of its request is over as soon as the load takes too long: either is the reason.
    assert late.status_code in (503, 504)
    assert (ready.status_code, alive.status_code) == (503, 204)
    assert "minilm: its load has not ended for" in ready.json()["error"]
    assert refused.status_code == 503
    assert "model minilm: its load has not ended for" in refused.json()["error"]
    assert refused.headers["retry-after"] == "10"
    assert {answer.status_code for answer in (*others, *probes)} == {200, 204}
    assert [answer.status_code for answer in answers] == [200, 204]
    assert loads.counts["minilm"] == 1


class Lost:
    """Lets the device of a model be lost with its next batch."""

    def __init__(self, fake: AnyFake, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_lost = True
        embed = fake.encode_text

        def encode_text(texts: Sequence[str]) -> Rows:
            if self.is_lost:
                raise DeviceLostError("it was unplugged")
            return embed(texts)

        monkeypatch.setattr(fake, "encode_text", encode_text)


async def test_a_model_that_died_is_unloaded_and_loaded_anew(
    fakes: Sequence[AnyFake],
    loads: Loads,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = Lost(fakes[1], monkeypatch)
    async with served(tmp_path, fakes, loads) as client:
        await ask(client, "clip")
        deadly = await ask(client, "minilm")
        await until_loaded(client, {"clip"})
        refused, other = await ask(client, "minilm"), await ask(client, "clip", "b")
        probes = [
            (await client.get(f"{path}/.well-known/{probe}")).status_code
            for path in ("/m/minilm", "/m/clip")
            for probe in ("live", "ready")
        ]
        clock.now_s += 30
        lost.is_lost = False
        answer = await ask(client, "minilm")
        ready = await client.get("/m/minilm/health")
        metrics = (await client.get("/metrics")).text

    assert deadly.status_code == 500
    assert refused.status_code == 503
    assert refused.json()["error"] == (
        "model minilm died: the device is lost, only a new load helps: it was unplugged"
    )
    assert refused.headers["retry-after"] == "30"
    assert probes == [204, 503, 204, 204]
    assert (answer.status_code, ready.status_code, other.status_code) == (200, 204, 200)
    np.testing.assert_array_equal(text_of(answer), Texts("minilm").vector_of("a"))
    assert loads.counts == {"clip": 1, "minilm": 2}
    for line in (
        'inference_model_loads_total{model="minilm",result="loaded"} 2.0',
        'inference_model_loads_total{model="rerank",result="loaded"} 0.0',
        'inference_model_load_duration_seconds_count{model="minilm"} 2.0',
        'inference_model_unloads_total{model="minilm",reason="died"} 1.0',
        'inference_model_unloads_total{model="clip",reason="died"} 0.0',
    ):
        assert line in metrics


async def test_a_model_that_dies_again_and_again_is_loaded_less_and_less_often(
    fakes: Sequence[AnyFake],
    loads: Loads,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses = []
    Lost(fakes[1], monkeypatch)
    async with served(tmp_path, fakes, loads) as client:
        for _ in range(6):
            assert (await ask(client, "minilm")).status_code == 500
            await until_loaded(client, set())
            pauses.append(int((await ask(client, "minilm")).headers["retry-after"]))
            clock.now_s += pauses[-1]

    assert pauses == [30, 60, 120, 240, 300, 300]


async def test_only_a_model_that_died_and_cannot_be_loaded_asks_for_a_restart(
    fakes: Sequence[AnyFake],
    loads: Loads,
    clock: Clock,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = Lost(fakes[1], monkeypatch)
    live = "/m/minilm/.well-known/live"
    async with served(tmp_path, fakes, loads) as client:
        await ask(client, "minilm")
        await until_loaded(client, set())
        before = await client.get(live)
        loads.faults["minilm"] = ModelFolderError("the folder is gone")
        clock.now_s += 30
        failed = await ask(client, "minilm")
        after = await client.get(live)
        loads.faults.clear()
        lost.is_lost = False
        clock.now_s += 60
        fine = await ask(client, "minilm")
        at_last = await client.get(live)
        metrics = (await client.get("/metrics")).text

    assert [answer.status_code for answer in (before, failed, after)] == [204, 503, 503]
    assert after.json()["error"].startswith("minilm: the device is lost")
    assert after.json()["error"].endswith("; loading it again failed: the folder is gone")
    assert [answer.status_code for answer in (fine, at_last)] == [200, 204]
    assert 'inference_model_loads_total{model="minilm",result="failed"} 1.0' in metrics


async def test_requests_that_a_dead_model_still_had_are_answered(
    fakes: Sequence[AnyFake], loads: Loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lost(fakes[1], monkeypatch)
    async with served(tmp_path, fakes, loads) as client, asyncio.timeout(20):
        answers = await asyncio.gather(*(ask(client, "minilm", f"{i}") for i in range(50)))

    assert {answer.status_code for answer in answers} <= {500, 503}


# --- memory


async def test_the_least_recently_used_model_makes_room(
    fakes: Sequence[AnyFake], loads: Loads, tmp_path: Path
) -> None:
    async with served(tmp_path, fakes, loads, models_memory_bytes=2 * SIZE) as client:
        for name in ("clip", "minilm", "clip", "rerank"):
            assert (await ask(client, name)).status_code == 200
        after = await loaded(client)
        for name in ("minilm", "clip"):
            assert (await ask(client, name)).status_code == 200
        metrics = (await client.get("/metrics")).text

    assert after == {"clip", "rerank"}
    assert loads.counts == {"clip": 2, "minilm": 2, "rerank": 1}
    assert 'inference_requests_total{code="200",endpoint="/vectorize",model="clip"} 3.0' in metrics
    assert 'inference_queue_items{modality="text",model="clip"}' in metrics
    assert 'inference_queue_items{modality="pair",model="rerank"}' not in metrics


async def test_a_model_with_requests_in_flight_is_not_unloaded(
    fakes: Sequence[AnyFake], loads: Loads, tmp_path: Path
) -> None:
    clip, *_ = fakes
    async with served(
        tmp_path, fakes, loads, models_memory_bytes=SIZE, request_timeout_s=1
    ) as client:
        in_flight = await busy_with(client, clip)
        refused = await ask(client, "minilm")
        clip.gate.set()
        answer = await in_flight

    assert refused.status_code in {503, 504}
    assert answer.status_code == 200


async def test_it_is_unloaded_once_they_are_answered(
    fakes: Sequence[AnyFake], loads: Loads, tmp_path: Path
) -> None:
    clip, *_ = fakes
    async with served(tmp_path, fakes, loads, models_memory_bytes=SIZE) as client:
        in_flight = await busy_with(client, clip)
        waiting = asyncio.create_task(ask(client, "minilm"))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        clip.gate.set()
        answers = await asyncio.gather(in_flight, waiting)
        assert await loaded(client) == {"minilm"}

    assert [answer.status_code for answer in answers] == [200, 200]


async def test_a_load_that_fits_does_not_wait_behind_one_that_does_not(
    fakes: Sequence[AnyFake], loads: Loads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"clip": SIZE, "minilm": SIZE, "rerank": 2 * SIZE}
    monkeypatch.setattr(on_demand, "stored_bytes", lambda one: sizes[one.models_dir.name])
    clip, *_ = fakes
    async with served(
        tmp_path, fakes, loads, models_memory_bytes=2 * SIZE, request_timeout_s=4
    ) as client:
        in_flight = await busy_with(client, clip)
        too_large = asyncio.create_task(ask(client, "rerank"))
        await asyncio.sleep(0.1)
        answer = await ask(client, "minilm")
        was_waiting = not too_large.done()
        refused = await too_large
        kept = await loaded(client)
        clip.gate.set()
        await in_flight

    assert was_waiting
    assert (answer.status_code, refused.status_code) == (200, 503)
    assert "no room for model rerank" in refused.json()["error"]
    assert refused.headers["retry-after"] == "1"
    assert kept == {"clip", "minilm"}  # none was unloaded in vain
    assert loads.counts == {"clip": 1, "minilm": 1}


@pytest.mark.parametrize("limit", [SIZE // 2 - 1, SIZE - 1])
async def test_a_model_that_never_fits_is_refused(
    fakes: Sequence[AnyFake], loads: Loads, tmp_path: Path, limit: int
) -> None:
    """The first limit is below what its files take, the second below what it takes in memory."""
    async with served(tmp_path, fakes, loads, models_memory_bytes=limit) as client:
        answer = await ask(client, "clip")
        assert await loaded(client) == set()

    assert answer.status_code == 503
    assert "MODELS_MEMORY_BYTES allows" in answer.json()["error"]
    assert "retry-after" in answer.headers


async def test_a_request_that_a_model_cannot_answer_does_not_load_it(
    fakes: Sequence[AnyFake], loads: Loads, tmp_path: Path
) -> None:
    async with served(tmp_path, fakes, loads) as client:
        answer = await client.post("/m/clip/rerank", json=PAIR)
        assert await loaded(client) == set()

    assert answer.status_code == 422
    assert "model clip reads texts and images, and does not answer" in answer.json()["error"]


async def test_files_larger_than_the_limit_are_tried(
    fakes: Sequence[AnyFake], loads: Loads, tmp_path: Path
) -> None:
    """Of weights in several formats one is loaded."""
    async with served(tmp_path, fakes, loads, models_memory_bytes=3 * SIZE) as client:
        for name in ("model.bin", "more.bin", "other.bin", "last.bin"):
            (tmp_path / "clip" / "clip" / name).write_bytes(bytes(SIZE))
        answer = await ask(client, "clip")

    assert answer.status_code == 200


async def test_a_model_that_nobody_asks_is_unloaded(
    fakes: Sequence[AnyFake], loads: Loads, tmp_path: Path
) -> None:
    async with served(tmp_path, fakes, loads, models_idle_s=0.3) as client:
        await ask(client, "clip")
        await ask(client, "minilm")
        for _ in range(10):
            await asyncio.sleep(0.1)
            await ask(client, "clip")
        kept = await loaded(client)
        await until_loaded(client, set())
        again = await ask(client, "minilm")

    assert kept == {"clip"}
    assert again.status_code == 200
    assert loads.counts == {"clip": 1, "minilm": 2}


@pytest.mark.parametrize("limit", [SIZE, 2 * SIZE])
async def test_while_models_come_and_go_each_answer_is_that_of_its_model(
    fakes: Sequence[AnyFake], loads: Loads, tmp_path: Path, limit: int
) -> None:
    turn = random.Random(0)
    outcomes: Counter[int] = Counter()

    async def ask_in_turn(client: httpx.AsyncClient) -> None:
        for number in range(25):
            fake = turn.choice(fakes)
            answer = await ask(client, fake.name, f"text {number}")
            outcomes[answer.status_code] += 1
            if answer.status_code == 200 and isinstance(fake, Named):
                np.testing.assert_array_equal(text_of(answer), fake.vector_of(f"text {number}"))
                assert answer.headers["x-model"] == fake.name
            await asyncio.sleep(turn.random() / 100)

    settings = {"models_memory_bytes": limit, "models_idle_s": 0.02, "vector_cache_size": 5}
    async with (
        served(tmp_path, fakes, loads, **settings) as client,
        asyncio.timeout(60),
        asyncio.TaskGroup() as group,
    ):
        for _ in range(8):
            group.create_task(ask_in_turn(client))

    assert outcomes.keys() <= {200, 503}
    assert outcomes[200] > 150
    assert min(loads.counts.values()) > 1


# --- the end


async def test_a_service_that_drains_begins_no_load(
    fakes: Sequence[AnyFake], loads: Loads, tmp_path: Path
) -> None:
    app = app_of(tmp_path, fakes, loads, default_model="clip", models_on_demand=True)
    async with client_of(app) as client:
        await ask(client, "clip")
        in_flight = await loads.held_up(client, "rerank")
        app.state.service.drain()
        answers = [await ask(client, "clip", "b"), await ask(client, "minilm")]
        was_waiting = not in_flight.done()
        loads.gate.set()
        answers.append(await in_flight)

    assert was_waiting
    assert [answer.status_code for answer in answers] == [200, 503, 200]
    assert answers[1].json()["error"] == "shutting down"
    assert "retry-after" in answers[1].headers
    assert {answer.headers["connection"] for answer in answers} == {"close"}
    assert loads.counts == {"clip": 1, "rerank": 1}


async def test_a_service_that_stops_loads_nothing(tmp_path: Path) -> None:
    async def load(*_: object) -> Vectorizer:
        pytest.fail("it was loaded")

    owner = OnDemand(Settings(), {"clip": Settings(models_dir=tmp_path)}, load)
    await owner.aclose()

    with pytest.raises(NotLoadedError, match="shutting down"):
        await owner.models["clip"].load()


async def test_a_stop_during_a_load_waits_for_no_load(
    fakes: Sequence[AnyFake], loads: Loads, tmp_path: Path
) -> None:
    async with served(tmp_path, fakes, loads) as client:
        waiting = await loads.held_up(client, "clip")
        began_s = time.monotonic()
    took_s = time.monotonic() - began_s
    answer = await waiting

    assert took_s < 5
    assert answer.status_code == 503


async def test_a_stop_ends_a_conversion_and_counts_no_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its process goes on, and after two stops the model is never converted."""

    async def load(*_: object) -> Vectorizer:
        pytest.fail("it was loaded")

    monkeypatch.setattr(on_demand, "needs_conversion", needs_conversion)
    monkeypatch.setattr(conversion_cache, "_CONVERT", "tests.job_for_a_process")
    shutil.copytree(GOLDEN_TEXTS / "bert", tmp_path / "minilm")
    cache = tmp_path / "cache"
    settings = Settings(models_dir=tmp_path / "minilm", runtime_cache_dir=cache)
    owner = OnDemand(settings, {"minilm": settings}, load)
    async with asyncio.timeout(30):
        while not jobs._running:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    in_progress = [path.suffix for path in cache.glob("*.tries")]
    began_s = time.monotonic()
    await owner.aclose()

    assert in_progress == [".tries"]
    assert not cache.exists()  # nor a half conversion
    assert not jobs._running
    assert time.monotonic() - began_s < 4


async def test_one_model_alone_is_loaded_at_start() -> None:
    """MODELS_ON_DEMAND is for several."""
    async with asgi.serving(FakeModel(), models_on_demand=True) as client:
        assert (await client.post("/vectorize", json={"texts": ["a"]})).status_code == 200

import asyncio
import itertools
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from backends.model import Rows
from config import Settings
from errors import DeviceLostError, DeviceMemoryError, QueueFullError, UnhealthyError
from inference.admission import Admission, Permit
from inference.capacity import BatchStats, Capacity
from inference.device import LONGEST_BATCH_S, QUERY_WAIT_S, Device, Devices, DeviceShare, DeviceTurn
from inference.request import EmbedInput, RequestContext
from tests.fakes import Clock, FakeModel, SmallDevice, vector_of, vectorize
from tests.image_files import base64_of, plain
from vectorizer import Resources, Vectorizer

pytestmark = pytest.mark.anyio


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one model compute at a time."""
    monkeypatch.setattr("inference.device._SIDE_BY_SIDE", 1)


class Bench:
    """A device whose time the test sets."""

    def __init__(self, models: int = 2) -> None:
        self.clock = Clock(100.0)
        self.device = Device(self.clock)
        self.shares = [self.device.share() for _ in range(models)]

    def later(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.device.dispatch()

    def batch(self, share: DeviceShare, run_s: float, *, is_query: bool = False) -> DeviceTurn:
        """Begin a batch."""
        turn = share.ask(run_s, is_query=is_query)
        assert has_begun(turn)
        turn.expect(run_s)
        return turn


async def end(turn: DeviceTurn) -> None:
    """End a batch, and let the next one begin."""
    turn.end()
    await asyncio.sleep(0)


def has_begun(turn: DeviceTurn) -> bool:
    return turn.granted.done()


# --- the order


@pytest.mark.usefixtures("one_by_one")
async def test_a_batch_waits_for_that_of_another_model() -> None:
    bench = Bench()
    first, second = bench.shares
    running = bench.batch(first, 0.2)
    waiting = second.ask(0.2, is_query=False)
    bench.later(0.1)
    assert not has_begun(waiting)
    await end(running)

    assert has_begun(waiting)


async def test_batches_of_one_model_do_not_wait_for_each_other() -> None:
    bench = Bench()
    bench.batch(bench.shares[0], 0.2)

    assert has_begun(bench.shares[0].ask(0.2, is_query=False))


@pytest.mark.usefixtures("one_by_one")
async def test_queries_are_first_and_then_the_model_that_has_used_the_device_least() -> None:
    bench = Bench(models=4)
    running, *others = bench.shares
    first = bench.batch(running, 0.1)
    much, little, query = (share.ask(10, is_query=share is others[2]) for share in others)
    much.share.used_s += 0.2
    query.share.used_s += 0.2
    await end(first)

    assert [has_begun(turn) for turn in (much, little, query)] == [False, False, True]
    await end(query)
    assert [has_begun(turn) for turn in (much, little)] == [False, True]
    await end(little)
    assert has_begun(much)


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize(("run_s", "is_query"), [(0.04, True), (0.01, False)])
async def test_each_of_two_busy_models_has_half_of_the_device(run_s: float, is_query: bool) -> None:
    """The other one's batches take longer, and are imports: neither side is starved."""
    bench = Bench()
    runs_s = run_s, 0.2
    turns = [
        share.ask(10, is_query=is_query and share is bench.shares[0]) for share in bench.shares
    ]
    for _ in range(1000):
        place = next(place for place, turn in enumerate(turns) if has_begun(turn))
        turns[place].expect(runs_s[place])
        bench.clock.now_s += runs_s[place]
        turns[place].end()
        turns[place] = bench.shares[place].ask(10, is_query=is_query and not place)
        await asyncio.sleep(0)

    first, second = (share.used_s for share in bench.shares)
    assert first == pytest.approx(second, abs=2 * LONGEST_BATCH_S)


@pytest.mark.usefixtures("one_by_one")
async def test_an_idle_model_saves_nothing_up() -> None:
    bench = Bench()
    busy, idle = bench.shares
    for _ in range(100):
        turn = bench.batch(busy, 0.2)
        bench.clock.now_s += 0.2
        turn.end()
    turns = [share.ask(10, is_query=False) for share in bench.shares]
    for _ in range(20):
        place = next(place for place, turn in enumerate(turns) if has_begun(turn))
        bench.clock.now_s += 0.2
        turns[place].end()
        turns[place] = bench.shares[place].ask(10, is_query=False)
        await asyncio.sleep(0)

    assert idle.used_s - 20 == pytest.approx(2, abs=0.2)  # from where the other one stood


# --- it orders, and does not lock


async def test_two_models_import_side_by_side_and_a_third_waits() -> None:
    bench = Bench(models=3)
    first = bench.batch(bench.shares[0], 0.2)
    bench.batch(bench.shares[1], 0.2)
    third = bench.shares[2].ask(10, is_query=False)
    assert not has_begun(third)
    await end(first)

    assert has_begun(third)


async def test_an_import_waits_for_a_query_of_another_model() -> None:
    bench = Bench()
    query = bench.batch(bench.shares[0], 0.2, is_query=True)
    waiting = bench.shares[1].ask(10, is_query=False)
    assert not has_begun(waiting)
    await end(query)

    assert has_begun(waiting)


async def test_batches_side_by_side_count_for_their_part_of_the_time() -> None:
    bench = Bench()
    first, second = (bench.batch(share, 0.2) for share in bench.shares)
    bench.later(0.1)
    first.end()
    bench.later(0.11)

    assert first.used_s == pytest.approx(0.05)
    assert second.used_until_now_s() == pytest.approx(0.16)
    assert [share.used_s for share in bench.shares] == pytest.approx([0.05, 0.16])
    query = bench.shares[0].ask(0, is_query=True)
    assert not has_begun(query)  # the other one has 40 ms to go


@pytest.mark.parametrize(
    ("to_go_s", "begins"), [(QUERY_WAIT_S + 0.01, True), (QUERY_WAIT_S - 0.01, False)]
)
async def test_a_query_begins_beside_a_batch_that_has_long_to_go(
    to_go_s: float, begins: bool
) -> None:
    bench = Bench()
    running = bench.batch(bench.shares[0], 0.2)
    bench.later(0.2 - to_go_s)
    query = bench.shares[1].ask(0, is_query=True)

    assert has_begun(query) == begins
    await end(running)
    assert has_begun(query)


async def test_a_query_waits_no_longer_for_a_batch_that_takes_longer_than_expected() -> None:
    bench = Bench()
    bench.batch(bench.shares[0], 0.01)
    bench.later(0.1)
    query = bench.shares[1].ask(0, is_query=True)
    bench.later(QUERY_WAIT_S - 0.001)
    assert not has_begun(query)
    bench.later(0.001)

    assert has_begun(query)


@pytest.mark.usefixtures("one_by_one")
async def test_a_short_batch_waits_for_a_long_one_for_twice_its_time() -> None:
    bench = Bench(models=3)
    bench.batch(bench.shares[0], 0.2)
    short, longer = (
        share.ask(run_s, is_query=False)
        for share, run_s in zip(bench.shares[1:], (0.03, 0.1), strict=True)
    )
    bench.later(0.059)
    assert not has_begun(short)
    bench.later(0.002)

    assert has_begun(short)
    assert not has_begun(longer)


@pytest.mark.usefixtures("one_by_one")
async def test_a_pass_that_never_ends_delays_another_model_once() -> None:
    bench = Bench()
    hanging, other = bench.shares
    bench.batch(hanging, 0.1)
    first = other.ask(10, is_query=False)
    bench.later(LONGEST_BATCH_S)
    assert has_begun(first)
    first.end()
    bench.later(1)

    assert has_begun(other.ask(10, is_query=False))
    assert has_begun(other.ask(10, is_query=True))


@pytest.mark.usefixtures("one_by_one")
async def test_a_query_that_arrives_makes_a_waiting_turn_urgent() -> None:
    bench = Bench()
    running = bench.batch(bench.shares[0], 0.2)
    waiting = bench.shares[1].ask(10, is_query=False)
    bench.later(0.01)
    assert not has_begun(waiting)
    waiting.hurry()  # the running batch has over 50 ms to go

    assert has_begun(waiting)
    running.end()


async def test_a_turn_begins_by_the_clock_with_nothing_else_to_wake_it() -> None:
    device = Device()
    first, second = device.share(), device.share()
    first.ask(0.1, is_query=False)
    turn = second.ask(0, is_query=True)
    assert not has_begun(turn)
    async with asyncio.timeout(10):
        await turn.granted


@pytest.mark.usefixtures("one_by_one")
async def test_a_turn_that_is_given_up_is_in_nobodys_way() -> None:
    bench = Bench()
    first, second = bench.shares
    running = bench.batch(first, 0.2)
    given_up = second.ask(10, is_query=False)
    given_up.end()
    given_up.end()
    running.end()

    assert not has_begun(given_up)
    assert has_begun(first.ask(0.1, is_query=False))
    assert not bench.device.is_using(second)


def test_only_models_of_one_device_share_it() -> None:
    devices = Devices()
    first, other = devices.share("cuda:0"), devices.share("cuda:1")
    seen = [first.device.is_shared]
    second = devices.share("cuda:0")
    seen.append(first.device.is_shared)
    second.leave()
    seen.append(first.device.is_shared)

    assert first.device is second.device is not other.device
    assert seen == [False, True, False]


async def test_batches_are_short_while_another_model_is_busy() -> None:
    bench = Bench()
    first, second = bench.shares
    assert first.max_batch_s == math.inf
    turn = bench.batch(second, 0.1)
    assert first.max_batch_s == LONGEST_BATCH_S
    assert second.max_batch_s == math.inf
    turn.end()
    assert first.max_batch_s == LONGEST_BATCH_S
    bench.later(60)

    assert first.max_batch_s == math.inf


async def test_a_pass_that_hangs_takes_no_part_of_the_device_for_ever() -> None:
    bench = Bench()
    bench.batch(bench.shares[0], 0.1)
    bench.later(60)
    other = bench.batch(bench.shares[1], 0.1)
    bench.later(0.1)

    assert other.used_until_now_s() == pytest.approx(0.1)


def test_a_rate_is_that_of_a_model_by_itself() -> None:
    capacity = Capacity(2, timeout_s=10)
    for _ in range(3):
        capacity.observe(BatchStats(1, run_s=2, cost=4, device_share=0.5))

    assert capacity.cost_s == pytest.approx(0.25)


# --- admission


def admission_of(share: DeviceShare, *, timeout_s: float = 10, passes: int = 2) -> Admission:
    """Return that of a model that takes half a second an item."""
    capacity = Capacity(2, timeout_s)
    for _ in range(passes):
        capacity.observe(BatchStats(1, 2, 4))
    return Admission(1000, capacity, [share])


def queue(admission: Admission, cost: int, *, is_query: bool = False) -> Permit:
    return Permit(admission, RequestContext(is_query=is_query), cost)


def test_a_refusal_counts_the_queued_work_of_other_models_up_to_the_own() -> None:
    first, second, third = (admission_of(share) for share in Bench(3).shares)
    queue(first, 4)
    queue(second, 2)
    queue(third, 100)

    with pytest.raises(QueueFullError, match="an answer would take about 9 s") as refused:
        first.check(RequestContext(), cost=4, items=1)  # 4 s, and 1 s and 4 s of the others
    assert refused.value.retry_after_s == 5  # a pass of 2 s, beside 1 s and 2 s of the others


def test_a_query_waits_for_the_queries_of_other_models() -> None:
    first, second = (admission_of(share) for share in Bench(2).shares)
    queue(first, 4, is_query=True)
    queue(second, 100)
    query = RequestContext(is_query=True)
    with pytest.raises(QueueFullError, match="about 4 s"):
        first.check(query, cost=4, items=1)
    queue(second, 100, is_query=True)

    with pytest.raises(QueueFullError, match="about 8 s"):
        first.check(query, cost=4, items=1)


def test_a_refused_import_waits_for_all_queries_of_other_models() -> None:
    first, second = (admission_of(share) for share in Bench(2).shares)
    queue(first, 4)
    queue(second, 12, is_query=True)

    with pytest.raises(QueueFullError, match="about 10 s") as refused:
        first.check(RequestContext(), cost=4, items=1)  # 4 s, and 6 s of the queries
    assert refused.value.retry_after_s == 8  # a pass of 2 s


def test_what_one_model_admits_is_answered_in_time_if_all_others_become_busy() -> None:
    first, _ = (admission_of(share) for share in Bench(2).shares)
    for _ in range(3):
        queue(first, 2)
    first.check(RequestContext(), cost=1, items=1)  # 3.5 s, so 7 s beside the other

    with pytest.raises(QueueFullError, match="about 4 s") as refused:
        first.check(RequestContext(), cost=2, items=1)
    assert refused.value.retry_after_s == 2  # when a pass has ended


def test_the_first_requests_are_refused_by_no_rate_of_small_passes() -> None:
    few, enough = (admission_of(Bench(2).shares[0], passes=passes) for passes in (1, 2))
    for admission in (few, enough):
        for _ in range(5):
            queue(admission, 2)

    few.check(RequestContext(), cost=3, items=1)  # 6.5 s: a single model would admit it
    with pytest.raises(QueueFullError):
        enough.check(RequestContext(), cost=3, items=1)


def test_the_rate_of_single_images_counts_if_batches_are_cut_to_single_images() -> None:
    alone, beside = (admission_of(Bench(models).shares[0], timeout_s=40) for models in (1, 2))
    for admission in (alone, beside):
        for _ in range(3):  # requests of two images, each of 2 s
            queue(admission, 8)

    alone.check(RequestContext(), cost=8, items=2)
    with pytest.raises(QueueFullError):  # 16 s would take 32 s
        beside.check(RequestContext(), cost=8, items=2)


def test_retry_after_is_longer_while_another_model_takes_its_half() -> None:
    first, second = (admission_of(share) for share in Bench(2).shares)
    request, cost = RequestContext(), 12
    queue(first, 12)
    with pytest.raises(QueueFullError) as alone:
        first.check(request, cost, items=1)
    queue(second, 100)
    with pytest.raises(QueueFullError) as beside:
        first.check(request, cost, items=1)

    assert alone.value.retry_after_s == 9  # 12 s - 3.5 s
    assert beside.value.retry_after_s == 17


# --- two engines on one device


class SlowModel(FakeModel):
    """A model whose passes take a time for each text; notes when they began and ended."""

    def __init__(self, seconds: float = 0.01) -> None:
        super().__init__()
        self.seconds = seconds
        self.passes: list[tuple[float, float, list[str]]] = []

    def encode_text(self, texts: Sequence[str]) -> Rows:
        began_s = time.perf_counter()
        rows = super().encode_text(texts)
        time.sleep(self.seconds * len(texts))
        self.passes.append((began_s, time.perf_counter(), list(texts)))
        return rows


class Pair:
    """Two engines on one device."""

    def __init__(self, *models: FakeModel, **settings: Any) -> None:
        self.models = models
        own = Settings(**settings)
        devices = Devices()
        self.engines = [
            Vectorizer([model.model], own, resources=replace(Resources.of(own), devices=devices))
            for model in models
        ]

    async def __aenter__(self) -> "Pair":
        return self

    async def __aexit__(self, *_: object) -> None:
        for model in self.models:
            model.gate.set()
        for engine in self.engines:
            await engine.aclose()


async def ask(engine: Vectorizer, text: str, *, is_query: bool = False) -> None:
    """Ask for the vector of a text, and check it."""
    embed_input = EmbedInput("text", "text", text, is_query=is_query)
    (embedded,) = await engine.embed([embed_input])
    np.testing.assert_array_equal(embedded.vector, vector_of(text))


def overlap_s(models: Sequence[SlowModel]) -> float:
    """Return for how long passes of both models ran at once."""
    first, second = (model.passes for model in models)
    return sum(
        max(0.0, min(one[1], other[1]) - max(one[0], other[0])) for one in first for other in second
    )


async def test_the_learned_rates_leave_out_what_another_model_computes_meanwhile() -> None:
    models = SlowModel(), SlowModel()
    async with Pair(*models, max_batch_size=8, vector_cache_size=0) as pair:
        seen: list[BatchStats] = []
        for engine in pair.engines:
            await ask(engine, "the first")
            engine.observe_batches(lambda _, stats: seen.append(stats))
        async with asyncio.TaskGroup() as tasks:
            for engine in pair.engines:
                for i in range(32):
                    tasks.create_task(ask(engine, f"text {i}"))

    assert overlap_s(models) > 0.1
    assert min(stats.device_share for stats in seen) == pytest.approx(0.5, abs=0.15)


@pytest.mark.usefixtures("one_by_one")
async def test_imports_into_two_models_take_turns_and_equal_shares() -> None:
    models = SlowModel(), SlowModel()
    async with Pair(*models, max_batch_size=8, vector_cache_size=0) as pair:
        for engine in pair.engines:
            await ask(engine, "the first")
        async with asyncio.TaskGroup() as tasks:
            for engine in pair.engines:
                for i in range(64):
                    tasks.create_task(ask(engine, f"text {i}"))
        firsts = sorted(
            (began_s, place) for place in (0, 1) for began_s, *_ in models[place].passes
        )

    assert overlap_s(models) < 0.05
    order = [place for _, place in firsts]
    half = order[: len(order) // 2]
    assert abs(half.count(0) - half.count(1)) <= 2


async def test_one_model_with_two_towers_computes_them_side_by_side() -> None:
    model, other = FakeModel(), FakeModel()
    async with Pair(model, other) as pair:
        model.gate.clear()
        text = asyncio.create_task(vectorize(pair.engines[0], ["a"]))
        assert await asyncio.to_thread(model.busy.wait, 10)
        model.busy.clear()
        image = base64_of(plain((200, 0, 0)))
        images = asyncio.create_task(vectorize(pair.engines[0], [], [image]))
        assert await asyncio.to_thread(model.busy.wait, 10)
        model.gate.set()
        await asyncio.gather(text, images)


async def test_a_query_does_not_wait_for_the_import_of_another_model() -> None:
    importing, searched = SlowModel(0.05), SlowModel(0)
    waits_s = []
    async with Pair(importing, searched, vector_cache_size=0) as pair, asyncio.TaskGroup() as tasks:
        for i in range(48):
            tasks.create_task(ask(pair.engines[0], f"text {i}"))
        for i in range(10):
            await asyncio.sleep(0.05)
            asked_s = time.perf_counter()
            await ask(pair.engines[1], f"query {i}", is_query=True)
            waits_s.append(time.perf_counter() - asked_s)

    assert max(waits_s) < LONGEST_BATCH_S
    longest = [ended_s - began_s for began_s, ended_s, texts in importing.passes[2:]]
    assert max(longest) < 1.5 * LONGEST_BATCH_S  # 16 texts would take 0.8 s


async def test_others_go_on_while_a_model_hangs_and_health_knows_which() -> None:
    hanging, other = FakeModel(), SlowModel()
    async with Pair(hanging, other, request_timeout_s=0.3, vector_cache_size=0) as pair:
        hanging.gate.clear()
        hung = asyncio.create_task(ask(pair.engines[0], "hangs"))
        assert await asyncio.to_thread(hanging.busy.wait, 10)
        await asyncio.sleep(0.35)
        began_s = time.perf_counter()
        for i in range(10):
            await ask(pair.engines[1], f"text {i}")
            await ask(pair.engines[1], f"query {i}", is_query=True)

        assert time.perf_counter() - began_s < 1
        assert "has not ended for" in (pair.engines[0].health.unready or "")
        assert pair.engines[1].health.unready is None
        hanging.gate.set()
        await hung


async def test_others_go_on_after_a_model_has_died() -> None:
    dying, other = FakeModel(), SlowModel()
    async with Pair(dying, other, vector_cache_size=0) as pair:
        dying.gate.clear()
        lost = asyncio.create_task(ask(pair.engines[0], "lost"))
        assert await asyncio.to_thread(dying.busy.wait, 10)
        (worker,) = (task for task in asyncio.all_tasks() if task.get_name() == "text-worker")
        worker.cancel()
        with pytest.raises(UnhealthyError):
            await lost
        for i in range(3):
            await ask(pair.engines[1], f"text {i}")

        assert pair.engines[0].health.dead
        assert pair.engines[1].health.unready is None


@pytest.mark.parametrize("error", [DeviceMemoryError, DeviceLostError])
async def test_a_model_that_fails_gives_its_turn_back(error: type[Exception]) -> None:
    class Failing(FakeModel):
        def encode_text(self, texts: Sequence[str]) -> Rows:
            raise error("no")

    async with Pair(Failing(), SlowModel(), vector_cache_size=0) as pair:
        for i in range(3):
            with pytest.raises((error, UnhealthyError)):
                await ask(pair.engines[0], "fails")
            await ask(pair.engines[1], f"text {i}")


async def test_out_of_memory_lowers_the_limit_of_its_model_only() -> None:
    small, large = SmallDevice(), FakeModel()
    async with Pair(small, large, max_batch_size=16, vector_cache_size=0) as pair:
        for turn in range(2):
            texts = [f"{turn} {i}" for i in range(16)]
            await asyncio.gather(*(vectorize(engine, texts) for engine in pair.engines))

    assert max(map(len, small.text_batches)) == 2
    assert max(map(len, large.text_batches)) == 16


async def test_a_trial_batch_takes_a_turn_and_shares_the_device() -> None:
    busy, tried = FakeModel(), SlowModel(0.1)
    async with Pair(busy, tried) as pair:
        seen: list[BatchStats] = []
        pair.engines[1].observe_batches(lambda _, stats: seen.append(stats))
        busy.gate.clear()
        running = asyncio.create_task(ask(pair.engines[0], "runs"))
        assert await asyncio.to_thread(busy.busy.wait, 10)
        await pair.engines[1].warm_up()
        busy.gate.set()
        await running

    assert min(stats.device_share for stats in seen) < 0.7


@pytest.mark.usefixtures("one_by_one")
async def test_a_caller_who_leaves_while_a_batch_waits_for_its_turn_is_not_computed() -> None:
    busy, other = FakeModel(), SlowModel()
    async with Pair(busy, other, vector_cache_size=0) as pair:
        busy.gate.clear()
        running = asyncio.create_task(ask(pair.engines[0], "runs"))
        assert await asyncio.to_thread(busy.busy.wait, 10)
        waiting = asyncio.create_task(ask(pair.engines[1], "leaves"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        busy.gate.set()
        await running
        await ask(pair.engines[1], "stays")

    assert [texts for *_, texts in other.passes] == [["stays"]]


class Core:
    """A core that passes share: each has it for a slice, and then the next."""

    def __init__(self) -> None:
        self._turns = threading.Condition()
        self._next, self._served = itertools.count(), 0

    def work(self, seconds: float) -> None:
        until_s = 0.0
        while until_s < seconds:
            with self._turns:
                mine = next(self._next)
                self._turns.wait_for(lambda: self._served == mine)  # noqa: B023 - called here
            began_s = time.perf_counter()
            time.sleep(0.005)
            until_s += time.perf_counter() - began_s
            with self._turns:
                self._served += 1
                self._turns.notify_all()


class CoreModel(SlowModel):
    """A model whose passes share a core with those of others."""

    def __init__(self, core: Core, seconds: float) -> None:
        super().__init__(0)
        self.core, self.each_s = core, seconds

    def encode_text(self, texts: Sequence[str]) -> Rows:
        self.core.work(self.each_s * len(texts))
        return super().encode_text(texts)


@pytest.mark.long  # its times want a quiet machine
@pytest.mark.parametrize("has_queries", [False, True])
async def test_what_two_overloaded_models_admit_is_answered_in_time(has_queries: bool) -> None:
    timeout_s, core = 3.0, Core()
    models = CoreModel(core, 0.01), CoreModel(core, 0.02)
    async with Pair(*models, request_timeout_s=timeout_s, vector_cache_size=0) as pair:
        for engine in pair.engines:
            for i in range(3):
                await ask(engine, f"first {i}")
        times_s: list[float] = []
        refused: list[QueueFullError] = []

        async def send(place: int, text: str) -> None:
            asked_s = time.perf_counter()
            try:
                await ask(pair.engines[place], text, is_query=has_queries and place == 1)
                times_s.append(time.perf_counter() - asked_s)
            except QueueFullError as error:
                refused.append(error)

        async with asyncio.TaskGroup() as tasks:
            for i in range(400):  # three times as much as both can do
                for place in (0, 1):
                    tasks.create_task(send(place, f"{i} of {place}"))
                await asyncio.sleep(0.01)

    assert refused
    assert max(times_s) < timeout_s

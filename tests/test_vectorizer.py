import asyncio
import contextlib
import gc
import time
import weakref
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backends.model import EncodeParams, Model, Rows, Tower
from config import Settings
from errors import BackendError, DeviceUnavailableError, InvalidInputError
from inference.pipeline import Pipeline
from inference.request import EmbedInput, RequestContext
from inference.work import QueueEntry, WorkItem
from tests.fakes import AsItIs, FakeModel, SmallDevice, vector_of, vectorize
from tests.golden_cases import GOLDEN
from tests.image_files import base64_of, file_of, plain
from vectorizer import Vectorizer, load_vectorizer

pytestmark = pytest.mark.anyio

RED, BLUE = (plain((200, 0, 0)), plain((0, 0, 200)))


def image_vector(raw_size: tuple[int, int], colour: tuple[int, int, int]) -> np.ndarray:
    return vector_of(Image.new("RGB", raw_size, colour).tobytes())


@pytest.fixture
def backend() -> FakeModel:
    return FakeModel()


@pytest.fixture
async def vectorizer(backend: FakeModel) -> AsyncIterator[Vectorizer]:
    vectorizer = Vectorizer([backend.model], Settings())
    yield vectorizer
    backend.gate.set()
    await vectorizer.aclose()


class Turns:
    """Counts how often others than the request had the event loop."""

    def __init__(self) -> None:
        self.count = 0
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.count += 1

    def stop(self) -> None:
        self._task.cancel()


@pytest.fixture
def giving_way_after_each_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a request give way after each of its inputs, however short they take."""
    monkeypatch.setattr("inference.request._SLICE_S", 0)
    monkeypatch.setattr("inference.request._SLICE_ITEMS", 1)


@pytest.mark.usefixtures("giving_way_after_each_input")
@pytest.mark.parametrize("step", ["read", "start"])
async def test_many_inputs_of_a_request_let_others_have_the_event_loop(
    vectorizer: Vectorizer, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    plain_step, turns, seen = getattr(Pipeline, step), Turns(), []

    def noted(*given: Any) -> Any:
        seen.append(turns.count)
        return plain_step(*given)

    monkeypatch.setattr(Pipeline, step, noted)
    await vectorize(vectorizer, [f"text {i}" for i in range(50)])
    turns.stop()

    assert len(set(seen)) == 50


@pytest.mark.usefixtures("giving_way_after_each_input")
async def test_inputs_of_a_request_fill_batches_however_often_it_gives_way(
    vectorizer: Vectorizer, backend: FakeModel
) -> None:
    size = vectorizer.settings.max_batch_size
    await vectorize(vectorizer, [f"text {i}" for i in range(2 * size + 3)])

    assert [len(batch) for batch in backend.text_batches] == [size, size, 3]


@pytest.mark.usefixtures("giving_way_after_each_input")
async def test_a_request_that_gives_up_between_its_inputs_leaves_nothing_behind(
    vectorizer: Vectorizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, started = [f"text {i}" for i in range(50)], []
    plain_start = Pipeline.start

    def start(pipeline: Pipeline, item: WorkItem) -> Sequence[QueueEntry]:
        started.append(item)
        if len(started) == 20:
            first.cancel()
        return plain_start(pipeline, item)

    monkeypatch.setattr(Pipeline, "start", start)
    first = asyncio.create_task(vectorize(vectorizer, texts))
    await asyncio.wait([first])
    assert first.cancelled()
    assert len(started) == 20
    assert set(vectorizer.queue_items.values()) == {0}
    assert set(vectorizer.queue_seconds.values()) == {0}

    answer = await vectorize(vectorizer, texts)
    np.testing.assert_array_equal(answer.texts, [vector_of(text) for text in texts])


@pytest.mark.usefixtures("giving_way_after_each_input")
async def test_equal_inputs_join_while_others_have_the_event_loop(
    vectorizer: Vectorizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"text {i}" for i in range(50)]
    started: list[WorkItem] = []
    plain_start = Pipeline.start

    def start(pipeline: Pipeline, item: WorkItem) -> Sequence[QueueEntry]:
        started.append(item)
        if len(started) == 20:
            first.cancel()  # the other waits for all of its items
        return plain_start(pipeline, item)

    monkeypatch.setattr(Pipeline, "start", start)
    first, second = (asyncio.create_task(vectorize(vectorizer, texts)) for _ in range(2))
    async with asyncio.timeout(10):
        await asyncio.wait([first, second])

    assert first.cancelled()
    np.testing.assert_array_equal(second.result().texts, [vector_of(text) for text in texts])
    assert len(started) == 50
    assert vectorizer.cache_stats.misses == 50


async def test_an_input_that_needs_no_work_of_its_own_keeps_no_file(
    vectorizer: Vectorizer, backend: FakeModel
) -> None:
    gc.collect()  # the items of other tests
    known, red = base64_of(BLUE), base64_of(RED)
    await vectorize(vectorizer, [], [known])
    backend.gate.clear()
    backend.busy.clear()
    computing = asyncio.create_task(vectorize(vectorizer, [], [red]))
    await asyncio.to_thread(backend.busy.wait, 10)
    joining = asyncio.create_task(vectorize(vectorizer, [], [red, known]))
    for _ in range(9):
        await asyncio.sleep(0)
    held = [thing.content for thing in gc.get_objects() if type(thing) is WorkItem]
    backend.gate.set()
    await asyncio.gather(computing, joining)

    assert len(held) == 3
    assert sum(content is not None for content in held) == 1


async def test_vectors_come_back_in_the_order_of_the_request(vectorizer: Vectorizer) -> None:
    texts = [f"text {i}" for i in range(100)]
    answer = await vectorize(vectorizer, texts, [base64_of(BLUE), base64_of(RED)])

    np.testing.assert_array_equal(answer.texts, [vector_of(text) for text in texts])
    np.testing.assert_array_equal(
        answer.images, [image_vector((8, 8), (0, 0, 200)), image_vector((8, 8), (200, 0, 0))]
    )


async def test_a_model_that_does_not_run_ends_the_start_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken(FakeModel):
        def encode_text(self, texts: Sequence[str]) -> Rows:
            raise RuntimeError("CUDA error: no kernel image\nCompile with")

    monkeypatch.setattr("backends.load.load_replicas", lambda *_: [Broken().model])
    with pytest.raises(DeviceUnavailableError) as raised:
        await load_vectorizer(Settings(models_dir=GOLDEN / "openai"))

    assert str(raised.value) == "The model does not run on cpu: CUDA error: no kernel image"


class WatchedText(str):
    """A text that can be watched."""

    __slots__ = ("__weakref__",)


@pytest.mark.usefixtures("without_collector")
async def test_a_request_that_failed_stays_in_no_memory(vectorizer: Vectorizer) -> None:
    async def fail() -> weakref.ref[WatchedText]:
        image = WatchedText("not base64!")
        with contextlib.suppress(InvalidInputError):
            await vectorize(vectorizer, ["a good one"], [image])
        return weakref.ref(image)

    image = await fail()
    await asyncio.sleep(0.01)  # the event loop still has its callbacks to do
    assert image() is None


async def test_nothing_asked_is_nothing_answered(vectorizer: Vectorizer) -> None:
    answer = await vectorize(vectorizer, [], [])

    assert (answer.texts, answer.images) == ([], [])


async def test_requests_share_batches(vectorizer: Vectorizer, backend: FakeModel) -> None:
    backend.gate.clear()
    asked = [asyncio.create_task(vectorize(vectorizer, [f"text {i}"], [])) for i in range(9)]
    await asyncio.sleep(0.05)
    backend.gate.set()
    answers = await asyncio.gather(*asked)

    for i, answer in enumerate(answers):
        np.testing.assert_array_equal(answer.texts, [vector_of(f"text {i}")])
    assert len(backend.text_batches) <= 2  # some, and all that came meanwhile


class ReadsTasks(AsItIs):
    """Reads any task, as a family does that writes it in front of the text."""

    def resolve(self, params: EncodeParams) -> EncodeParams:
        return params


async def test_a_task_and_a_text_are_told_apart_wherever_a_slash_stands(backend: FakeModel) -> None:
    tower = Tower(ReadsTasks(), lambda texts: backend.encode_text(texts.tolist()))
    vectorizer = Vectorizer([Model(backend.info, {"text": tower})], Settings())
    asked = [("a", "/b"), ("a/", "b"), ("a", "b")]
    answers = await vectorizer.embed(
        [EmbedInput(text, "text", text, EncodeParams(task=task)) for task, text in asked]
    )
    await vectorizer.aclose()

    np.testing.assert_array_equal(
        [answer.vector for answer in answers], [vector_of("/b"), vector_of("b"), vector_of("b")]
    )
    assert vectorizer.cache_stats.misses == 3


async def test_equal_images_that_are_slow_to_read_are_computed_once(
    vectorizer: Vectorizer, backend: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After such a wait a request gives way to others, and must not do so with a miss in hand."""
    monkeypatch.setattr("inference.request._SLICE_ITEMS", 1)
    pipeline = vectorizer._pipelines["image"]
    read = pipeline._read

    def read_slowly(*arguments: Any) -> WorkItem:
        time.sleep(0.05)
        return read(*arguments)

    monkeypatch.setattr(pipeline, "_read", read_slowly)
    backend.gate.clear()
    asked = [asyncio.create_task(vectorize(vectorizer, [], [base64_of(RED)])) for _ in range(5)]
    await asyncio.sleep(0.5)
    backend.gate.set()
    await asyncio.gather(*asked)

    assert backend.image_batches == [1]
    assert vectorizer.cache_stats.misses == 1


async def test_an_equal_image_is_computed_once(vectorizer: Vectorizer, backend: FakeModel) -> None:
    backend.gate.clear()
    asked = [asyncio.create_task(vectorize(vectorizer, [], [base64_of(RED)])) for _ in range(5)]
    await asyncio.sleep(0.05)
    backend.gate.set()
    await asyncio.gather(*asked)
    await vectorize(vectorizer, [], ["data:image/png;base64," + base64_of(RED)])

    assert backend.image_batches == [1]
    assert vectorizer.cache_stats.shared == 4
    assert vectorizer.cache_stats.hits == 1


async def test_large_files_that_are_read_side_by_side_take_no_longer_than_the_request(
    vectorizer: Vectorizer,
) -> None:
    noise = np.random.default_rng(1).integers(256, size=(1000, 1000, 3), dtype=np.uint8)
    files = [base64_of(file_of(Image.fromarray(noise + i), "PPM")) for i in range(8)]
    request = RequestContext()
    started_s = time.perf_counter()
    await vectorizer.embed([EmbedInput("image", "image", file) for file in files], request)

    ended_s = time.perf_counter()
    assert sum(request.times.stages(ended_s).values()) <= ended_s - started_s


async def test_a_text_and_an_image_of_the_same_bytes_are_not_mixed_up(
    vectorizer: Vectorizer,
) -> None:
    raw = file_of(Image.new("RGB", (2, 2)), "PPM")
    answer = await vectorize(vectorizer, [raw.decode()], [base64_of(raw)])

    assert not np.array_equal(answer.texts[0], answer.images[0])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([base64_of(RED), "?"], r"images\[1\]: not base64"),
        ([base64_of(RED), base64_of(RED), base64_of(b"hello")], r"images\[2\]: not an image"),
        ([base64_of(plain(size=(64, 64))[:80])], r"images\[0\]: a broken image"),
    ],
)
async def test_a_bad_image_is_named(
    vectorizer: Vectorizer, images: list[str], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        await vectorize(vectorizer, ["fine"], images)


async def test_a_bad_request_fails_no_other(vectorizer: Vectorizer, backend: FakeModel) -> None:
    backend.gate.clear()
    good = [asyncio.create_task(vectorize(vectorizer, [f"text {i}"], [])) for i in range(4)]
    bad = asyncio.create_task(vectorize(vectorizer, ["text 0"], ["?"]))
    await asyncio.sleep(0.05)
    backend.gate.set()

    with pytest.raises(InvalidInputError):
        await bad
    for i, answer in enumerate(await asyncio.gather(*good)):
        np.testing.assert_array_equal(answer.texts, [vector_of(f"text {i}")])


async def test_a_failure_of_the_model_is_raised(
    vectorizer: Vectorizer, backend: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise BackendError("no")

    failing = Vectorizer([backend.model], Settings())
    monkeypatch.setattr(backend, "encode_text", fail)
    broken = Vectorizer([backend.model], Settings())

    with pytest.raises(BackendError, match="no"):
        await vectorize(broken, ["a"], [])
    await broken.aclose()
    await failing.aclose()


async def test_warming_up_uses_both_towers(vectorizer: Vectorizer, backend: FakeModel) -> None:
    await vectorizer.warm_up()

    assert backend.text_batches
    assert backend.image_batches


async def test_two_engines_in_one_process_answer_side_by_side() -> None:
    backends = [FakeModel(), FakeModel()]
    engines = [Vectorizer([backend.model], Settings()) for backend in backends]
    for backend in backends:
        backend.gate.clear()
    asked = [
        asyncio.create_task(vectorize(engine, [f"{i} of {number}"]))
        for number, engine in enumerate(engines)
        for i in range(4)
    ]
    for backend in backends:  # each computes while the other does
        assert await asyncio.to_thread(backend.busy.wait, 10)
    for backend in backends:
        backend.gate.set()
    answers = await asyncio.gather(*asked)

    for place, answer in enumerate(answers):
        np.testing.assert_array_equal(answer.texts, [vector_of(f"{place % 4} of {place // 4}")])
    for number, (engine, backend) in enumerate(zip(engines, backends, strict=True)):
        assert {text[-1] for batch in backend.text_batches for text in batch} == {str(number)}
        assert engine.cache_stats.misses == 4
        await engine.aclose()


async def test_what_a_device_cannot_hold_is_known_to_all_who_have_limits() -> None:
    """A batch that did not fit shrinks batches, and what admission takes for one of a request's."""
    backend = SmallDevice()
    vectorizer = Vectorizer([backend.model], Settings(max_batch_size=16))
    capacity = vectorizer._pipelines["text"].scheduler.capacity
    for _ in range(2):  # passes of a cost of 2
        await vectorize(vectorizer, [f"{i} {_}" for i in range(8)])
    assert capacity.max_batch_size == 2
    assert max(map(len, backend.text_batches)) == 2
    capacity.max_batch_cost = 1e9

    assert capacity.can_judge(cost=8, items=8)  # its own passes would be as large as those seen
    await vectorizer.aclose()


def items_in_memory() -> int:
    # By type: isinstance() would ask torch's deprecated objects for their class, which warns.
    return sum(type(thing) is WorkItem for thing in gc.get_objects())


class Picky(FakeModel):
    """Fails every batch with more than one item, and a red image in each."""

    def preprocess(self, image: Image.Image) -> bytes:
        if image.getpixel((0, 0)) == (13, 0, 0):
            raise ZeroDivisionError
        return super().preprocess(image)

    def encode_image(self, batch: Sequence[bytes]) -> Rows:
        rows = super().encode_image(batch)
        if len(batch) > 1:
            raise RuntimeError("too many")
        return rows


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("how", ["computed", "halved", "failed", "given up"])
async def test_no_item_that_has_ended_waits_for_the_collector(how: str) -> None:
    backend = Picky()
    vectorizer = Vectorizer([backend.model], Settings(vector_cache_size=0))
    count = 1 if how == "computed" else 4
    colours = [(13 if how == "failed" else i, 0, i) for i in range(count)]
    if how == "given up":
        backend.gate.clear()
    task = asyncio.create_task(vectorize(vectorizer, [], [base64_of(plain(c)) for c in colours]))
    if how == "given up":
        await asyncio.to_thread(backend.busy.wait, 10)
        task.cancel()
        backend.gate.set()
    await asyncio.wait([task])
    assert task.cancelled() == (how == "given up")
    if how != "given up":
        assert (task.exception() is not None) == (how == "failed")
    del task
    await asyncio.sleep(0.1)  # threads and the event loop have their own ends to come to
    assert items_in_memory() == 0
    await vectorizer.aclose()


async def test_what_was_computed_for_a_request_that_gave_up_is_remembered(
    vectorizer: Vectorizer, backend: FakeModel
) -> None:
    texts = [f"text {i}" for i in range(20)]  # more than a batch
    backend.gate.clear()
    first = asyncio.create_task(vectorize(vectorizer, texts))
    await asyncio.to_thread(backend.busy.wait, 10)
    loop = asyncio.get_running_loop()

    def give_up(*_: object) -> None:
        loop.call_later(0, first.cancel)

    vectorizer.observe_batches(give_up)
    backend.gate.set()
    await asyncio.wait([first])
    await vectorize(vectorizer, texts[:8])

    assert first.cancelled()
    assert vectorizer.cache_stats.hits == 8

"""Towers of other kinds: chunks, poolings, ragged arrays, a lookup model.

Documents are split into sentences at full stops. A word is a number, the length of a sentence its
cost; the arrays of a batch are concatenated, and the network gives two poolings of each sentence.
"""

import asyncio
import contextlib
import random
import threading
import time
import weakref
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import pytest

from backends.model import (
    Arrays,
    Chunks,
    EmbeddingResult,
    EncodeParams,
    Model,
    ModelInput,
    Rows,
    Tower,
)
from backends.preprocessing.single_part import SinglePart
from config import Settings
from errors import InvalidInputError, QueueFullError, RequestTooLargeError
from inference.request import EmbedInput, Postprocess
from tests.fakes import FakeModel, SmallDevice
from vectorizer import Vectorizer

pytestmark = pytest.mark.anyio

POOLINGS = ("sum", "last")
LONGEST = 6  # words of a sentence that are read


class Documents(SinglePart):
    """Splits into sentences of words; reads the pooling, and no task."""

    is_chunked = True

    def resolve(self, params: EncodeParams) -> EncodeParams:
        if params.pooling and params.pooling not in POOLINGS:
            raise InvalidInputError(f"pooling {params.pooling!r}; expected sum or last", "format")
        return EncodeParams(pooling=params.pooling or "sum")

    def estimate(self, content: str) -> int:
        return len(content.split())

    def split(self, content: str, params: EncodeParams) -> Chunks:
        sentences = [sentence.strip() for sentence in content.split(".") if sentence.strip()]
        return Chunks(sentences or [""], max(1, len(sentences)))

    def prepare(self, part: str, params: EncodeParams) -> ModelInput:
        words = part.split()
        if "unreadable" in words:
            raise InvalidInputError("cannot be read", "format")
        numbers = np.array(
            [float(w) if w.isdecimal() else 0 for w in words[:LONGEST]] or [0], np.float32
        )
        return ModelInput(
            (numbers,),
            bucket="any",
            cost=len(numbers),
            tokens=len(numbers),
            truncated=len(words) > LONGEST,
            pooling_index=POOLINGS.index(params.pooling),
        )

    def collate(self, items: Sequence[ModelInput]) -> Arrays:
        lengths = np.array([len(item.arrays[0]) for item in items])
        return np.concatenate([item.arrays[0] for item in items]), lengths

    def join(self, parts: Sequence[EmbeddingResult], divisor: int) -> EmbeddingResult:
        return EmbeddingResult(
            np.sum([part.vector for part in parts], axis=0) / divisor,
            sum(part.tokens for part in parts),
            any(part.truncated for part in parts),
        )


class Library(FakeModel):
    """Computes documents; remembers how many sentences each pass had, and what they cost."""

    def __init__(self, *, is_lookup: bool = False) -> None:
        super().__init__()
        self.passes: list[int] = []
        self.costs: list[int] = []
        self.threads: set[str] = set()
        self.read: list[list[float]] = []  # the numbers of each pass
        self._is_lookup = is_lookup

    @property
    def model(self) -> Model:
        return Model(self.info, {"text": Tower(Documents(), self.compute, self._is_lookup)})

    def compute(self, numbers: np.ndarray, lengths: np.ndarray) -> Rows:
        self._pass_gate()
        self.passes.append(len(lengths))
        self.costs.append(int(lengths.sum()))
        self.read.append(numbers.tolist())
        self.threads.add(threading.current_thread().name)
        ends = np.cumsum(lengths)
        rows = [[chunk.sum(), chunk[-1]] for chunk in np.split(numbers, ends[:-1])]
        return np.array(rows, np.float32)[:, :, None] * np.ones(4, np.float32)  # [n, 2, 4]


class SlowLibrary(Library):
    """A library whose passes take 5 ms for each word."""

    def compute(self, numbers: np.ndarray, lengths: np.ndarray) -> Rows:
        time.sleep(0.005 * len(numbers))
        return super().compute(numbers, lengths)


@pytest.fixture
def library() -> Library:
    return Library()


@pytest.fixture
async def vectorizer(library: Library) -> AsyncIterator[Vectorizer]:
    vectorizer = Vectorizer([library.model], Settings())
    yield vectorizer
    library.gate.set()
    await vectorizer.aclose()


def document(content: str, pooling: str = "", **more: Any) -> EmbedInput:
    return EmbedInput("input", "text", content, EncodeParams(pooling=pooling), **more)


async def first_of(vectorizer: Vectorizer, *inputs: EmbedInput) -> list[float]:
    return [float(one.vector[0]) for one in await vectorizer.embed(inputs)]


async def test_a_document_is_the_mean_of_its_sentences_in_either_pooling(
    vectorizer: Vectorizer, library: Library
) -> None:
    text = "1 2 3. 4 5. 6"
    values = await first_of(vectorizer, document(text), document(text, "last"), document(""))

    assert values == pytest.approx([(6 + 9 + 6) / 3, (3 + 5 + 6) / 3, 0])
    (embedded,) = await vectorizer.embed([document("1 2 3 4 5 6 7 8. 1")])
    assert (embedded.tokens, embedded.truncated) == (LONGEST + 1, True)


async def test_the_limit_of_a_text_is_that_of_its_sentences(library: Library) -> None:
    vectorizer = Vectorizer([library.model], Settings(max_text_chars=20))
    fits = "1 2 3 zzzzzzzzzzzzzz"  # 20 characters
    assert await first_of(vectorizer, document(". ".join([fits] * 9))) == [6]

    for text, sentence in (
        (f"1. {fits}z. 2", "a sentence of 21 characters; at most 20 are allowed"),
        ("1. " * 10_001, "10001 sentences; at most 10000 are allowed"),
        ("1. " * 333_334, "1000002 characters; at most 1000000 are allowed"),
    ):
        with pytest.raises(RequestTooLargeError, match=f"^input: {sentence}$"):
            await vectorizer.embed([document(text)])
    await vectorizer.aclose()


@pytest.mark.parametrize("is_query", [True, False])
async def test_a_search_is_computed_in_the_midst_of_a_text_of_2000_sentences(
    vectorizer: Vectorizer, library: Library, is_query: bool
) -> None:
    library.gate.clear()
    text = ". ".join(f"{number} {'z ' * 30}" for number in range(2000))
    assert len(text) > 100_000  # more than a sentence may have
    long = asyncio.create_task(first_of(vectorizer, document(text)))
    await asyncio.to_thread(library.busy.wait, 10)
    search = asyncio.create_task(first_of(vectorizer, document("7777", is_query=is_query)))
    await asyncio.sleep(0.1)
    library.gate.set()

    assert await search == [7777]
    assert next(at for at, numbers in enumerate(library.read) if 7777 in numbers) <= 2
    assert not long.done()
    assert await long == [pytest.approx(1999 / 2)]


async def test_sentences_of_many_documents_share_passes(
    vectorizer: Vectorizer, library: Library
) -> None:
    library.gate.clear()
    first = asyncio.create_task(first_of(vectorizer, document("100")))
    await asyncio.to_thread(library.busy.wait, 10)
    asked = [
        asyncio.create_task(first_of(vectorizer, document(f"{i} 1. {i} 2. {i} 3")))
        for i in range(16)
    ]
    await asyncio.sleep(0.05)
    library.gate.set()
    await asyncio.gather(first, *asked)

    assert [task.result() for task in asked] == [[i + 2] for i in range(16)]
    assert library.passes == [1, 16, 16, 16]


async def test_equal_sentences_are_computed_once_whatever_document_they_are_in(
    vectorizer: Vectorizer, library: Library
) -> None:
    assert await first_of(vectorizer, document("1 2. 3. 1 2")) == [3]
    assert sum(library.passes) == 2
    assert await first_of(vectorizer, document("3. 1 2"), document("1 2", "last")) == [3, 2]
    assert sum(library.passes) == 3
    assert await first_of(vectorizer, document("3. 3. 4")) == pytest.approx([10 / 3])
    assert sum(library.passes) == 4
    assert vectorizer.cache_stats.misses == 4  # documents, not sentences


async def test_a_sentence_that_cannot_be_read_fails_its_document_by_name_and_no_other(
    vectorizer: Vectorizer,
) -> None:
    good = asyncio.create_task(first_of(vectorizer, document("1. 2")))
    with pytest.raises(InvalidInputError, match=r"^texts\[7\]: cannot be read$"):
        await vectorizer.embed(
            [document("1. 2"), EmbedInput("texts[7]", "text", "2. unreadable. 3")]
        )

    assert await good == [1.5]


async def test_callers_who_leave_at_any_moment_stop_nobody_and_leave_nothing_behind() -> None:
    vectorizer = Vectorizer([Library().model, Library().model], Settings(vector_cache_size=0))
    chance = random.Random(1)

    async def ask() -> None:
        sentences = [str(chance.randrange(12)) for _ in range(chance.randrange(1, 6))]
        long = document(". ".join(f"{sentence} 0{' z' * 600}" for sentence in sentences))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(chance.choice([0, 0.001, 0.003, 0.01, 20])):
                assert await first_of(vectorizer, long) == [
                    pytest.approx(sum(map(int, sentences)) / len(sentences))
                ]

    async def asked() -> AsyncIterator[asyncio.Task[None]]:
        for _ in range(600):
            yield asyncio.create_task(ask())
            if chance.random() < 0.3:
                await asyncio.sleep(0.002 * chance.random())

    await asyncio.gather(*[task async for task in asked()])
    await asyncio.sleep(0.05)  # what was given up has yet to hear of it

    assert vectorizer.queue_items == {"text": 0}
    assert vectorizer.queue_seconds == {"text": 0}
    await vectorizer.aclose()


class Watched(str):
    """A text that can be watched."""

    __slots__ = ("__weakref__",)


@pytest.mark.usefixtures("without_collector")
async def test_a_document_that_failed_stays_in_no_memory(vectorizer: Vectorizer) -> None:
    async def fail() -> weakref.ref[Watched]:
        text = Watched("1. unreadable. 3")
        with contextlib.suppress(InvalidInputError):
            await vectorizer.embed([document(text)])
        return weakref.ref(text)

    text = await fail()
    await asyncio.sleep(0.01)  # the event loop still has its callbacks to do
    assert text() is None


async def test_what_the_model_does_not_know_is_reported_by_name(vectorizer: Vectorizer) -> None:
    with pytest.raises(InvalidInputError, match="input: pooling 'max'; expected sum or last"):
        await vectorizer.embed([document("1", "max")])
    with pytest.raises(InvalidInputError, match=r"a: this model \(fake\) has no tower for images"):
        await vectorizer.embed([EmbedInput("a", "image", "aaaa")])


async def test_what_the_model_does_not_read_is_in_no_key(
    vectorizer: Vectorizer, library: Library
) -> None:
    for task in ("", "query", "passage"):
        await vectorizer.embed([EmbedInput("a", "text", "1", EncodeParams(task=task))])

    assert library.passes == [1]


async def test_a_vector_is_finished_behind_the_cache(
    vectorizer: Vectorizer, library: Library
) -> None:
    ways = Postprocess(), Postprocess(dimensions=1), Postprocess(normalize=True)
    answers = await vectorizer.embed(
        [document("3", postprocess=postprocess) for postprocess in ways]
    )

    assert [one.vector.tolist() for one in answers] == [[3] * 4, [1], [0.5] * 4]
    assert library.passes == [1]


async def test_a_newcomer_is_in_the_next_pass_but_one_whatever_waits(
    vectorizer: Vectorizer, library: Library
) -> None:
    library.gate.clear()
    bulk = [
        asyncio.create_task(
            first_of(vectorizer, *(document(f"{request}{i:03}") for i in range(256)))
        )
        for request in range(1, 9)
    ]
    await asyncio.to_thread(library.busy.wait, 10)
    await asyncio.sleep(0.2)
    search = asyncio.create_task(first_of(vectorizer, document("7")))
    await asyncio.sleep(0.05)
    library.gate.set()
    assert await search == [7]
    await asyncio.gather(*bulk)

    assert [7 in numbers for numbers in library.read].index(True) <= 2
    assert sum(library.passes) == 8 * 256 + 1
    assert max(library.passes) == 16


async def test_a_long_document_holds_up_a_search_by_one_pass(
    vectorizer: Vectorizer, library: Library
) -> None:
    library.gate.clear()
    text = ". ".join(f"{number} 1 1" for number in range(10, 2010))
    long = asyncio.create_task(first_of(vectorizer, document(text)))
    await asyncio.to_thread(library.busy.wait, 10)
    search = asyncio.create_task(first_of(vectorizer, document("5")))
    await asyncio.sleep(0.05)
    library.gate.set()
    assert await search == [5]
    await long

    assert [5 in numbers for numbers in library.read].index(True) <= 2
    assert len(library.passes) == pytest.approx(2001 / 16, abs=8)


async def test_queries_go_first(vectorizer: Vectorizer, library: Library) -> None:
    library.gate.clear()
    order: list[str] = []

    async def ask(name: str, one: EmbedInput) -> None:
        await vectorizer.embed([one])
        order.append(name)

    tasks = [asyncio.create_task(ask("first", document("0")))]
    await asyncio.to_thread(library.busy.wait, 10)
    tasks += [asyncio.create_task(ask("passage", document(f"{i}"))) for i in range(1, 40)]
    await asyncio.sleep(0.05)
    tasks.append(asyncio.create_task(ask("query", document("77", is_query=True))))
    await asyncio.sleep(0.05)
    library.gate.set()
    await asyncio.gather(*tasks)

    assert order[:2] == ["first", "query"]


async def test_a_pass_takes_no_longer_than_a_quarter_of_the_timeout() -> None:
    library = SlowLibrary()
    vectorizer = Vectorizer([library.model], Settings(request_timeout_s=1))
    await vectorizer.warm_up()
    await vectorizer.embed([document(f"{number} 1 1 1 1 1") for number in range(14)])
    await vectorizer.aclose()

    assert 30 < max(library.costs) <= 0.25 / 0.005
    assert max(library.passes) < 14


async def test_a_request_is_admitted_as_a_whole_or_not_at_all(library: Library) -> None:
    vectorizer = Vectorizer([library.model], Settings(max_queue_items=10))
    library.gate.clear()
    waiting = [
        asyncio.create_task(first_of(vectorizer, document(f"{number}"))) for number in range(8)
    ]
    await asyncio.to_thread(library.busy.wait, 10)
    with pytest.raises(QueueFullError):
        await vectorizer.embed([document(f"9{number}") for number in range(3)])
    assert vectorizer.queue_items == {"text": 8}
    with pytest.raises(RequestTooLargeError):
        await vectorizer.embed([document(f"9{number}") for number in range(11)])
    library.gate.set()
    await asyncio.gather(*waiting)
    await asyncio.sleep(0)

    assert sum(library.passes) == 8
    assert vectorizer.queue_items == {"text": 0}
    assert vectorizer.queue_seconds == {"text": 0}
    await vectorizer.aclose()


async def test_what_the_warm_up_took_keeps_no_request_out() -> None:
    class Quick(Library):
        def compute(self, numbers: np.ndarray, lengths: np.ndarray) -> Rows:
            time.sleep(0.005)  # whatever is in it, as on a GPU
            return super().compute(numbers, lengths)

    library = Quick()
    vectorizer = Vectorizer([library.model], Settings(request_timeout_s=2))
    await vectorizer.warm_up()
    await vectorizer.embed([document(f"{number} 1 1 1 1 1") for number in range(500)])
    await vectorizer.aclose()

    assert sum(library.passes) == 1 + 2 + 500


async def test_the_largest_batch_is_of_the_longest_sentences() -> None:
    library = Library()
    vectorizer = Vectorizer([library.model], Settings(max_batch_size=5))
    await vectorizer.warm_up(largest=True)
    await vectorizer.aclose()

    assert library.costs[-1] == max(library.costs) == 5 * LONGEST


async def test_the_largest_batch_takes_no_longer_than_any_other() -> None:
    library = SlowLibrary()
    vectorizer = Vectorizer([library.model], Settings(request_timeout_s=0.4))
    await vectorizer.warm_up(largest=True)
    await vectorizer.aclose()

    assert LONGEST < max(library.costs) <= 0.25 * 0.4 / 0.005


async def test_a_device_too_small_for_the_largest_batch_stays_ready() -> None:
    device = SmallDevice()
    vectorizer = Vectorizer([device.model], Settings())
    await vectorizer.warm_up(largest=True)
    unready = vectorizer.health.unready
    await vectorizer.aclose()

    assert max(map(len, device.text_batches)) == 2
    assert max(device.image_batches) == 16
    assert unready is None


async def test_a_table_is_computed_in_place_uncached_and_without_a_queue() -> None:
    library = Library(is_lookup=True)
    vectorizer = Vectorizer([library.model], Settings())
    await vectorizer.warm_up()
    library.passes.clear()
    library.threads.clear()
    values = [await first_of(vectorizer, document("1 2. 3")) for _ in range(2)]

    assert values == [[3.0], [3.0]]
    assert library.passes == [2, 2]
    assert library.threads == {threading.main_thread().name}
    assert vectorizer.cache_stats.size == 0
    assert await first_of(vectorizer, document("1 " * 1000)) == [LONGEST]
    assert {name.partition("-")[0] for name in library.threads} == {"MainThread", "tokenize"}
    await vectorizer.aclose()

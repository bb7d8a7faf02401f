"""The second level of the cache: what it finds and keeps, and that it is in nobody's way."""

import asyncio
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.model import EmbeddingResult
from config import Settings
from inference.store import shared_cache
from inference.store.base import Entry, Store, StoreError, Usage
from inference.store.entry import EntryFormat
from inference.store.file_store import MIN_BYTES, FileStore
from inference.store.redis_store import RedisStore
from inference.store.shared_cache import SharedCache
from tests.fakes import FakeModel, vector_of, vectorize
from tests.redis_server import needs_redis, redis_server
from vectorizer import Vectorizer

pytestmark = pytest.mark.anyio

ENTRIES = EntryFormat(4, {})
PATIENT_S = 5.0  # tests share their cores


class MadeUpStore:
    """A store in memory that fails, or takes its time, as a test sets it."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.failure: Exception | None = None
        self.failure_of_writes: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.reads: list[Sequence[bytes]] = []
        self.writes: list[int] = []
        self.ahead: list[Entry] = []

    def open(self) -> None:
        self._fail()

    def _fail(self) -> None:
        self.gate.wait(10)
        if self.failure:
            raise self.failure

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.reads.append(keys)
        self._fail()
        return [self.values.get(key) for key in keys]

    def read_ahead(self) -> Sequence[Entry]:
        self._fail()
        ahead, self.ahead = self.ahead, []
        return ahead

    def write(self, entries: Sequence[Entry]) -> None:
        self._fail()
        if self.failure_of_writes:
            raise self.failure_of_writes
        self.writes.append(len(entries))
        self.values.update(entries)

    def usage(self) -> Usage:
        self._fail()
        return Usage(len(self.values), 7)

    def count(self) -> int:
        return len(self.values)

    def empty(self) -> int:
        raise NotImplementedError

    def close(self) -> None:
        pass


def key(number: int) -> bytes:
    return sha256(b"%d" % number).digest()


def result(number: int) -> EmbeddingResult:
    return EmbeddingResult(np.full(4, number, np.float32), number)


@pytest.fixture
def store() -> MadeUpStore:
    return MadeUpStore()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_cache, "_RETRY_S", 0.02)
    monkeypatch.setattr(shared_cache, "_GATHER_S", 0.01)


@pytest.fixture
async def cache(store: MadeUpStore) -> AsyncIterator[SharedCache]:
    cache = SharedCache("redis://***@h:1/0", lambda _: store, ENTRIES, PATIENT_S)
    await cache.open()
    yield cache
    store.failure = None
    store.gate.set()
    await cache.aclose()


async def until(condition: Any, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - it is of a thread
            await asyncio.sleep(0.005)


async def test_what_was_kept_is_found(cache: SharedCache, store: MadeUpStore) -> None:
    for number in range(300):
        cache.add(key(number), result(number))
    await until(lambda: cache.stats.written == 300)
    found = await cache.find([key(7), key(300)])

    assert list(found) == [key(7)]
    np.testing.assert_array_equal(found[key(7)].vector, np.full(4, 7))
    assert found[key(7)].tokens == 7
    assert max(store.writes) <= 128
    assert len(store.writes) < 30
    stats = cache.stats
    assert (stats.hits, stats.misses, stats.errors, stats.dropped) == (1, 1, 0, 0)
    await until(lambda: stats.usage == Usage(nbytes=300, evictions=7))


async def test_requests_that_wait_share_a_read(cache: SharedCache, store: MadeUpStore) -> None:
    store.gate.clear()
    first = asyncio.create_task(cache.find([key(0)]))
    await until(lambda: store.reads)
    asked = [asyncio.create_task(cache.find([key(n), key(n + 1)])) for n in range(9)]
    await asyncio.sleep(0.05)
    store.gate.set()
    await asyncio.gather(first, *asked)

    assert [len(keys) for keys in store.reads] == [1, 10]


async def test_entries_that_were_read_ahead_need_no_read(
    cache: SharedCache, store: MadeUpStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_cache, "_MAX_AHEAD", 3)
    for number in range(6):
        cache.add(key(number), result(number))
    await until(lambda: cache.stats.written == 6)
    store.ahead = [*store.values.items()][1:]
    store.ahead[4] = (store.ahead[4][0], store.ahead[0][1])  # the value of another key
    await cache.find([key(0)])
    await until(lambda: cache._ahead)

    found = await cache.find([key(3), key(4)])
    assert [found[key(number)].tokens for number in (3, 4)] == [3, 4]
    assert len(store.reads) == 1  # that of key 0
    found = await cache.find([key(1), key(5), key(6)])  # two dropped or damaged, one unknown
    assert [found[key(number)].tokens for number in (1, 5)] == [1, 5]
    assert [len(keys) for keys in store.reads] == [1, 3]
    assert (cache.stats.hits, cache.stats.misses, cache.stats.invalid) == (5, 1, 0)


async def test_a_store_that_fails_to_read_ahead_delays_no_answer(
    cache: SharedCache, store: MadeUpStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.add(key(1), result(1))
    await until(lambda: cache.stats.written == 1)

    def hang() -> Sequence[Entry]:
        store.gate.clear()
        store.gate.wait(10)
        raise StoreError("slow disk")

    monkeypatch.setattr(store, "read_ahead", hang)
    found = await asyncio.wait_for(cache.find([key(1)]), 2)
    assert found[key(1)].tokens == 1
    store.gate.set()
    await until(lambda: cache.stats.errors == 1)
    monkeypatch.setattr(store, "read_ahead", tuple)
    assert key(1) in await cache.find([key(1)])


async def test_what_is_no_vector_is_a_miss_and_counted(
    cache: SharedCache, store: MadeUpStore
) -> None:
    cache.add(key(1), result(1))
    await until(lambda: store.values)
    (kept,) = store.values
    store.values[kept] = store.values[kept][:-1] + b"\0"

    assert await cache.find([key(1)]) == {}
    assert (cache.stats.invalid, cache.stats.misses) == (1, 1)


async def test_a_store_that_is_late_is_not_waited_for(store: MadeUpStore) -> None:
    cache = SharedCache("redis://h:1/0", lambda _: store, ENTRIES, timeout_s=0.02)
    await cache.open()
    store.gate.clear()
    began_s = time.monotonic()
    found = await cache.find([key(1)])

    assert found == {}
    assert 0.015 < time.monotonic() - began_s < 2
    assert cache.stats.timeouts == 1
    for _ in range(10):
        await cache.find([key(1)])
    assert not cache.is_connected  # one read has hung all the while
    began_s = time.monotonic()
    for _ in range(1000):
        await cache.find([key(1)])
    assert time.monotonic() - began_s < 1  # it is not asked
    store.gate.set()
    await until(lambda: cache.is_connected)
    await cache.aclose()


async def test_one_warning_tells_of_a_store_that_fails_and_one_line_that_it_works_again(
    cache: SharedCache, store: MadeUpStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store.failure = StoreError("Connection refused")
    for number in range(50):
        assert await cache.find([key(number)]) == {}
        cache.add(key(number), result(number))
    await until(lambda: cache._failing == {"reads", "writes"})
    asked = len(store.reads)
    await cache.find([key(1)])
    await asyncio.sleep(0.2)

    assert asked == len(store.reads) <= 10
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "The vector cache redis://***@h:1/0 fails: Connection refused. Vectors are computed "
        "without it, and it is tried again every second"
    ]
    store.failure = None
    await until(lambda: cache.stats.written == 50)  # what waited is not lost
    await until(lambda: not cache._failing)
    assert cache.is_connected
    assert caplog.messages[-1] == "The vector cache redis://***@h:1/0 works again"
    assert set(await cache.find([key(1)])) == {key(1)}


async def test_a_store_that_only_takes_no_more_is_still_read(
    cache: SharedCache, store: MadeUpStore, caplog: pytest.LogCaptureFixture
) -> None:
    cache.add(key(1), result(1))
    await until(lambda: store.values)
    store.failure_of_writes = StoreError("OOM command not allowed")
    cache.add(key(2), result(2))
    await until(lambda: cache.stats.errors > 3)

    assert set(await cache.find([key(1), key(2)])) == {key(1)}
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


async def test_vectors_that_wait_to_be_written_are_bounded(
    cache: SharedCache, store: MadeUpStore
) -> None:
    cache._max_pending = 100
    store.gate.clear()
    for number in range(1000):
        cache.add(key(number), result(number))
        if not number % 100:
            await asyncio.sleep(0)

    assert cache.stats.dropped >= 1000 - 100 - 128
    store.gate.set()
    await until(lambda: cache.stats.written + cache.stats.dropped == 1000)


async def test_a_bug_of_a_library_ends_no_thread_and_shows_no_secret(
    cache: SharedCache, store: MadeUpStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.failure = RuntimeError("redis://:secret@h:1/0")
    for _ in range(9):
        assert await cache.find([key(1)]) == {}
    await until(lambda: not cache.is_connected)
    store.failure = None
    await until(lambda: cache.is_connected)

    assert "a bug (RuntimeError)" in caplog.text
    assert "secret" not in caplog.text


async def test_a_request_that_gives_up_leaves_the_others_their_answer(
    cache: SharedCache, store: MadeUpStore
) -> None:
    cache.add(key(1), result(1))
    await until(lambda: store.values)
    store.gate.clear()
    asked = [asyncio.create_task(cache.find([key(1)])) for _ in range(3)]
    await until(lambda: store.reads)
    asked[0].cancel()
    store.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await asked[0]

    assert [set(await one) for one in asked[1:]] == [{key(1)}] * 2


async def test_what_waits_is_written_before_the_end(tmp_path: Path) -> None:
    def make(timeout_s: float) -> Store:
        return FileStore(tmp_path, MIN_BYTES, timeout_s)

    cache = SharedCache("file:///a", make, ENTRIES, PATIENT_S)
    await cache.open()
    for number in range(1000):
        cache.add(key(number), result(number))
    await cache.aclose()
    after = SharedCache("file:///a", make, ENTRIES, PATIENT_S)
    await after.open()

    assert len(await after.find([key(number) for number in range(1000)])) == 1000
    await after.aclose()


async def test_a_store_that_is_not_there_keeps_no_service_from_starting(
    store: MadeUpStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_cache, "_FIRST_S", 0.05)
    store.gate.clear()
    cache = SharedCache("redis://h:1/0", lambda _: store, ENTRIES, PATIENT_S)
    await cache.open()

    assert not cache.is_connected
    assert await cache.find([key(1)]) == {}
    store.gate.set()
    await until(lambda: cache.is_connected)
    await cache.aclose()


@needs_redis
async def test_a_redis_that_goes_and_comes_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with redis_server(tmp_path) as server:
        port, address = server.port, server.address
        cache = SharedCache(
            address.shown, lambda timeout_s: RedisStore(address, timeout_s), ENTRIES, PATIENT_S
        )
        await cache.open()
        await until(lambda: cache.is_connected)
        cache.add(key(1), result(1))
        await until(lambda: cache.stats.written == 1)
        assert set(await cache.find([key(1)])) == {key(1)}
    for _ in range(9):
        assert await cache.find([key(1)]) == {}
    await until(lambda: not cache.is_connected)
    with redis_server(tmp_path, port=port):
        await until(lambda: cache.is_connected)
        cache.add(key(2), result(2))
        await until(lambda: cache.stats.written == 2)
        assert set(await cache.find([key(1), key(2)])) == {key(2)}
        await cache.aclose()

    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert re.match(r"The vector cache redis://\*\*\*@127\.0\.0\.1:\d+/0 fails: ", warnings[0])
    assert "word" not in caplog.text


async def test_equal_inputs_of_requests_that_ask_the_store_at_once_are_computed_once(
    cache: SharedCache, store: MadeUpStore
) -> None:
    backend = FakeModel()
    vectorizer = Vectorizer([backend.model], Settings(), cache)
    store.gate.clear()
    asked = [asyncio.create_task(vectorize(vectorizer, ["a", "b"])) for _ in range(5)]
    await until(lambda: store.reads)
    store.gate.set()
    answers = await asyncio.gather(*asked)
    await until(lambda: cache.stats.written == 2)
    again = Vectorizer([backend.model], Settings(), cache)
    found = await vectorize(again, ["a", "b", "a"])

    assert sorted(text for batch in backend.text_batches for text in batch) == ["a", "b"]
    for answer in (*answers, found):
        np.testing.assert_array_equal(answer.texts[:2], [vector_of("a"), vector_of("b")])
    assert again.cache_stats.misses == 0
    assert again.cache_stats.size == 2


async def test_a_store_that_fails_changes_no_answer(cache: SharedCache, store: MadeUpStore) -> None:
    store.failure = StoreError("gone")
    vectorizer = Vectorizer([FakeModel().model], Settings(), cache)
    for number in range(30):
        texts = [f"text {number}", "the same"]
        answer = await vectorize(vectorizer, texts)
        np.testing.assert_array_equal(answer.texts, [vector_of(text) for text in texts])

    assert not cache.is_connected

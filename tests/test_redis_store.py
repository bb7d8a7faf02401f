"""Redis as the store, with a real server: its own keys alone, and no secret in any message."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from errors import ConfigurationError
from inference.store import redis_store
from inference.store.address import Address
from inference.store.base import StoreError
from inference.store.redis_store import PREFIX, RedisStore, check_package
from tests.redis_server import PASSWORD, RedisServer, needs_redis, redis_server
from tests.service import free_port
from tests.store_writer import entries, fill, is_right, key_of


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def store(server: RedisServer) -> Iterator[RedisStore]:
    store = RedisStore(server.address, timeout_s=5)
    store.open()
    yield store
    store.empty()
    store.close()


@needs_redis
def test_what_one_wrote_another_reads(store: RedisStore, server: RedisServer) -> None:
    store.write(entries(0, 10))
    other = RedisStore(server.address, timeout_s=5)
    other.open()
    values = other.read([key_of(number) for number in range(11)])

    assert all(is_right(number, value or b"") for number, value in enumerate(values[:10]))
    assert values[10] is None
    assert other.count() == 10
    assert other.usage().nbytes > 0
    other.close()


@needs_redis
def test_emptying_deletes_what_is_ours_and_nothing_else(
    store: RedisStore, server: RedisServer
) -> None:
    client = redis.Redis.from_url(server.url)
    client.set("another's", "x")
    client.set(f"{PREFIX}0:of an older format", "x")
    store.write(entries(0, 2500))

    assert store.empty() == 2501
    assert client.keys("*") == [b"another's"]
    calls = client.info("commandstats")
    assert "cmdstat_flushdb" not in calls
    assert "cmdstat_flushall" not in calls
    client.flushdb()
    client.close()


@needs_redis
def test_a_full_server_still_answers(tmp_path: Path) -> None:
    options = ("--maxmemory", "4mb", "--maxmemory-policy", "noeviction")
    with redis_server(tmp_path, *options) as server:
        store = RedisStore(server.address, timeout_s=5)
        store.open()

        assert fill(store) > 0
        assert is_right(0, store.read([key_of(0)])[0] or b"")
        store.close()


@needs_redis
def test_what_a_server_evicts_is_reported(tmp_path: Path) -> None:
    with redis_server(
        tmp_path, "--maxmemory", "4mb", "--maxmemory-policy", "allkeys-lru"
    ) as server:
        store = RedisStore(server.address, timeout_s=5)
        store.open()
        for start in range(0, 20_000, 1000):
            store.write([(key_of(start + number), os.urandom(500)) for number in range(1000)])

        assert store.usage().evictions > 1000
        store.close()


@needs_redis
def test_a_wrong_password_is_reported_without_it(server: RedisServer) -> None:
    wrong = Address.of_url(server.url.replace(":p%40ss", ":wr%40ng-secret"))
    store = RedisStore(wrong, timeout_s=5)
    with pytest.raises(StoreError) as raised:
        store.open()

    for secret in ("ng-secret", PASSWORD):
        assert secret not in f"{raised.value} {raised.value.__cause__!r} {wrong!r}"


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_a_server_that_is_not_there_is_reported_without_the_secret(scheme: str) -> None:
    address = Address.of_url(f"{scheme}://user:hidden@127.0.0.1:{free_port()}/0")
    store = RedisStore(address, timeout_s=1)
    with pytest.raises(StoreError, match="refused") as raised:
        store.open()

    assert "hidden" not in str(raised.value)
    assert raised.value.__suppress_context__


@needs_redis
def test_a_server_that_is_frozen_fails_in_time(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        store = RedisStore(server.address, timeout_s=0.05)
        store.open()
        server.freeze()
        with pytest.raises(StoreError, match=r"[Tt]imeout"):
            store.read([key_of(0)])
        server.thaw()
        store.open()

        assert store.read([key_of(0)]) == [None]
        store.close()


def test_without_the_package_the_start_ends_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_package()
    monkeypatch.setattr(redis_store, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"pip install -r requirements-redis\.txt"):
        check_package()

"""The store that replicas of many hosts share: Redis or Valkey.

The server bounds itself by `maxmemory`, and evicts by `maxmemory-policy allkeys-lru`. The client's
package is optional (requirements-redis.txt), and imported only for a URL of Redis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from errors import ConfigurationError, describe_error
from inference.store.address import Address
from inference.store.base import Entry, StoreError, Usage
from inference.store.entry import FORMAT

PREFIX = "inference:vector:"  # the prefix of keys in every format
_OURS = f"{PREFIX}{FORMAT}:"
_CONNECT_S = 1.0  # no request waits for it; TLS takes several round trips
_SCANNED_AT_ONCE = 1_000


def check_package() -> None:
    """Check that the client's package is installed.

    Raises:
        ConfigurationError: the package is missing.
    """
    if find_spec("redis") is None:
        raise ConfigurationError(
            "VECTOR_CACHE_URL: Redis needs a package: pip install -r requirements-redis.txt"
        )


class RedisStore:
    """Stores vectors in Redis or Valkey, under a prefix.

    Args:
        address: address of the server.
        timeout_s: timeout of a command in seconds.
    """

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._client: Any = None

    def open(self) -> None:
        """Connect, and ping the server."""
        with self._translated():
            self._connected().ping()

    def _connected(self) -> Any:
        if self._client is None:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry

            self._client = redis.Redis.from_url(
                self._address.url,
                socket_timeout=self._timeout_s,
                socket_connect_timeout=_CONNECT_S,
                retry=Retry(NoBackoff(), 0),  # computing the vector is faster than a retry
                protocol=2,  # a round trip less, and no push messages
            )
        return self._client

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn errors into StoreError, with a message without secrets."""
        from redis.exceptions import RedisError

        try:
            yield
        except (RedisError, OSError, ValueError) as error:
            message = self._address.without_secrets(describe_error(error))
            raise StoreError(message) from None  # the library's error may hold a secret

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values by one MGET."""
        with self._translated():
            values: list[bytes | None] = self._connected().mget([_name(key) for key in keys])
            return values

    def read_ahead(self) -> Sequence[Entry]:
        """Return nothing: Redis keeps no order of its keys."""
        return ()

    def write(self, entries: Sequence[Entry]) -> None:
        """Write the entries by one MSET."""
        with self._translated():
            self._connected().mset({_name(key): value for key, value in entries})

    def usage(self) -> Usage:
        """Return the server's memory, and its number of evicted keys."""
        with self._translated():
            client = self._connected()
            memory, stats = client.info("memory"), client.info("stats")
        return Usage(int(memory["used_memory"]), int(stats["evicted_keys"]))

    def count(self) -> int:
        """Count the entries by SCAN."""
        return sum(map(len, self._pages()))

    def empty(self) -> int:
        """Delete the entries by SCAN and UNLINK, as the database may hold other keys."""
        deleted = 0
        for names in self._pages():
            with self._translated():
                deleted += self._connected().unlink(*names)
        return deleted

    def _pages(self) -> Iterator[list[bytes]]:
        cursor = 0
        while True:
            with self._translated():
                cursor, names = self._connected().scan(cursor, f"{PREFIX}*", _SCANNED_AT_ONCE)
            if names:
                yield names
            if not cursor:
                return

    def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        if client:
            client.close()


def _name(key: bytes) -> str:
    return _OURS + key.hex()

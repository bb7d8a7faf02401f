"""The interface of stores (bytes by key) between the shared cache and SQLite or Redis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from errors import ServiceError

Entry: TypeAlias = tuple[bytes, bytes]  # key, value


class StoreError(ServiceError):
    """The store failed; the message holds no secret. Requests do not fail."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage of a store; zeros where it is not known.

    Attributes:
        nbytes: size on disk of a file store, or memory of a Redis server.
        evictions: number of entries deleted to make room, by this process (file) or by the server.
    """

    nbytes: int = 0
    evictions: int = 0


class Store(Protocol):
    """Stores values by keys of 32 bytes. Each thread has a store of its own.

    All methods except `close` may raise StoreError.
    """

    def open(self) -> None:
        """Connect or reconnect, and check that the store answers."""
        ...

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values in one round trip; None for unknown keys."""
        ...

    def read_ahead(self) -> Sequence[Entry]:
        """Return entries that the next reads may ask for; none if reads follow no order."""
        ...

    def write(self, entries: Sequence[Entry]) -> None:
        """Write all entries or none; older entries are deleted to make room."""
        ...

    def usage(self) -> Usage:
        """Return the usage of the store; fast."""
        ...

    def count(self) -> int:
        """Count the entries of this service; may take seconds."""
        ...

    def empty(self) -> int:
        """Delete the entries of this service, and nothing else; return how many there were."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...

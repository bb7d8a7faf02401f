"""A store of bytes by keys, whatever keeps them: the seam between the cache and a file or Redis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from errors import ServiceError

Entry: TypeAlias = tuple[bytes, bytes]  # key, value


class StoreError(ServiceError):
    """The store failed; the message holds no secret. No request fails for it."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a store holds.

    Attributes:
        nbytes: that it takes: of a file its size on disk, of Redis the server's memory.
        evictions: entries that were deleted to make room, by this process (file) or by the server.
    """

    nbytes: int
    evictions: int


class Store(Protocol):
    """Keeps values by keys of 32 bytes. A thread opens one for itself, and no other uses it.

    All methods but `close` raise StoreError where the store fails.
    """

    def open(self) -> None:
        """Connect, or connect again; a store that is open and works is asked for a sign of life."""
        ...

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values in one round trip, None for each that is not there."""
        ...

    def write(self, entries: Sequence[Entry]) -> None:
        """Keep all entries or none; older ones are deleted where there is no room."""
        ...

    def usage(self) -> Usage:
        """Tell how full it is; quick."""
        ...

    def count(self) -> int:
        """Count the entries of this service; may take seconds."""
        ...

    def empty(self) -> int:
        """Delete the entries of this service, and nothing else; return how many there were."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...

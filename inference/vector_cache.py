"""The cache of vectors, with single flight: equal inputs are computed once.

The cache helps because Weaviate sends an image once for every named vector of a collection, within
milliseconds. The cache is passive: it returns known vectors, and stores results.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from backends.model import EmbeddingResult
from inference.work import WorkItem

_OVERHEAD_BYTES = 300  # memory of a cached row's key and Python objects


# Results by key, the least recently used first.
Remembered: TypeAlias = OrderedDict[bytes, EmbeddingResult]


@dataclass
class CacheStats:
    """Counts of cache lookups.

    Attributes:
        hits: inputs with a cached vector.
        shared: inputs that joined an item in flight.
        misses: inputs that had to be computed.
        size: number of cached vectors, of all models that share them.
    """

    hits: int = 0
    shared: int = 0
    misses: int = 0
    size: int = 0


@dataclass(slots=True)
class CacheResult:
    """The state of inputs in the cache, by key; equal inputs share a key.

    Attributes:
        vectors: cached vectors.
        in_flight: items in flight of equal inputs.
        misses: items to compute.
    """

    vectors: dict[bytes, EmbeddingResult] = field(default_factory=dict)
    in_flight: dict[bytes, WorkItem] = field(default_factory=dict)
    misses: dict[bytes, WorkItem] = field(default_factory=dict)


class VectorCache:
    """An LRU cache of vectors, and of items in flight, which equal inputs join.

    Args:
        capacity: maximum number of vectors; 0 turns the cache off.
        keep: function that stores each computed result in the second level of the cache.
        remembered: the vectors, if the caches of several models share them, and so the capacity.
            Items in flight are never shared, as each model computes its own.
    """

    def __init__(
        self,
        capacity: int,
        keep: Callable[[bytes, EmbeddingResult], None] | None = None,
        remembered: Remembered | None = None,
    ) -> None:
        self._stats = CacheStats()
        self._capacity = capacity
        self._keep = keep
        self._vectors: Remembered = OrderedDict() if remembered is None else remembered
        self._in_flight: dict[bytes, WorkItem] = {}

    @property
    def stats(self) -> CacheStats:
        """The counts of lookups so far."""
        return replace(self._stats, size=len(self._vectors))

    def get(self, items: Sequence[WorkItem]) -> CacheResult:
        """Look up the items of a request: cached, in flight, or to be computed."""
        found = CacheResult()
        for item in items:
            key = item.key
            if key in found.vectors or key in found.in_flight or key in found.misses:
                continue
            vector = self._vectors.get(key)
            flight = self._in_flight.get(key)
            if vector is not None:
                self._vectors.move_to_end(key)
                found.vectors[key] = vector
            elif flight is not None and flight.can_be_joined:
                found.in_flight[key] = flight
            else:
                found.misses[key] = item
        self._stats.hits += len(found.vectors)
        self._stats.shared += len(found.in_flight)
        return found

    def take(self, result: CacheResult, stored: Mapping[bytes, EmbeddingResult]) -> None:
        """Resolve misses of an earlier `get` that are known by now.

        The second level of the cache may have a result. Another request may also have computed an
        equal input meanwhile, or have it in flight.

        Args:
            result: result of `get`; resolved misses are moved to its other fields.
            stored: results of the second level, by key; keys that are no misses are ignored.
        """
        for key in list(result.misses):
            vector = self._vectors.get(key)
            flight = self._in_flight.get(key)
            if key in stored:
                self._vectors[key] = result.vectors[key] = stored[key]
            elif vector is not None:
                self._stats.hits += 1
                result.vectors[key] = vector
            elif flight is not None and flight.can_be_joined:
                self._stats.shared += 1
                result.in_flight[key] = flight
            else:
                continue
            del result.misses[key]
        self._trim()

    def add(self, item: WorkItem) -> None:
        """Add an item in flight, which equal inputs may join."""
        self._stats.misses += 1
        self._in_flight[item.key] = item

    def settle(self, item: WorkItem) -> None:
        """Remove an ended item from the items in flight, and store its result if it has one."""
        if item.is_done and self._in_flight.get(item.key) is item:
            del self._in_flight[item.key]
            if item.result is not None:
                if self._keep:
                    self._keep(item.key, item.result)
                self._vectors[item.key] = item.result
                self._trim()

    def _trim(self) -> None:
        while len(self._vectors) > self._capacity:
            self._vectors.popitem(last=False)


# The vector space of a row's model, and the digest of its sentence.
RowKey: TypeAlias = tuple[str, bytes]


class RowMemory:
    """An LRU cache of rows of sentences, as texts often share sentences.

    Args:
        max_bytes: maximum memory of all rows.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._nbytes = 0
        self._rows: OrderedDict[RowKey, EmbeddingResult] = OrderedDict()

    def get(self, key: RowKey) -> EmbeddingResult | None:
        """Return the cached row of a key; None if there is none."""
        row = self._rows.get(key)
        if row is not None:
            self._rows.move_to_end(key)
        return row

    def put(self, key: RowKey, row: EmbeddingResult) -> None:
        """Store a row; if the memory is full, drop the rows that were not used for longest."""
        nbytes = _nbytes(row)
        if key in self._rows or nbytes > self._max_bytes:
            return
        self._rows[key] = row
        self._nbytes += nbytes
        while self._nbytes > self._max_bytes:
            self._nbytes -= _nbytes(self._rows.popitem(last=False)[1])


def _nbytes(row: EmbeddingResult) -> int:
    return row.vector.nbytes + _OVERHEAD_BYTES

"""Vectors that are remembered, and single flight: equal inputs are computed once.

It pays because one image reaches this service once for every named vector of a collection, within
milliseconds. The cache starts nothing and calls nobody: it says what is there, and takes results.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from backends.model import EmbeddingResult
from inference.work import WorkItem

_OVERHEAD_BYTES = 300  # of a row that is remembered: its key, and Python's objects around it


@dataclass
class CacheStats:
    """How often an input was met again.

    Attributes:
        hits: answered from memory.
        shared: joined a computation that was under way.
        misses: computed.
        size: values remembered now.
    """

    hits: int = 0
    shared: int = 0
    misses: int = 0
    size: int = 0


@dataclass(slots=True)
class Lookup:
    """What is there of the inputs of a request, by key; equal inputs share a key.

    Attributes:
        vectors: that are remembered.
        in_flight: items under way of equal inputs.
        misses: items that are to be computed.
    """

    vectors: dict[bytes, EmbeddingResult] = field(default_factory=dict)
    in_flight: dict[bytes, WorkItem] = field(default_factory=dict)
    misses: dict[bytes, WorkItem] = field(default_factory=dict)


class VectorCache:
    """An LRU cache of vectors, and the items in flight that equal inputs join.

    Args:
        capacity: the most vectors that are remembered; 0 remembers none.
    """

    def __init__(self, capacity: int) -> None:
        self.stats = CacheStats()
        self._capacity = capacity
        self._vectors: OrderedDict[bytes, EmbeddingResult] = OrderedDict()
        self._in_flight: dict[bytes, WorkItem] = {}

    def get(self, items: Sequence[WorkItem]) -> Lookup:
        """Look the inputs of a request up."""
        lookup = Lookup()
        for item in items:
            key = item.key
            if key in lookup.vectors or key in lookup.in_flight or key in lookup.misses:
                continue
            vector = self._vectors.get(key)
            flight = self._in_flight.get(key)
            if vector is not None:
                self._vectors.move_to_end(key)
                lookup.vectors[key] = vector
            elif flight is not None and flight.can_be_joined:
                lookup.in_flight[key] = flight
            else:
                lookup.misses[key] = item
        self.stats.hits += len(lookup.vectors)
        self.stats.shared += len(lookup.in_flight)
        return lookup

    def add(self, item: WorkItem) -> None:
        """Let equal inputs join an item from now on."""
        self.stats.misses += 1
        self._in_flight[item.key] = item

    def settle(self, item: WorkItem) -> None:
        """Remember the result of an item that has ended, if it has one; let nobody join it."""
        if item.is_done and self._in_flight.get(item.key) is item:
            del self._in_flight[item.key]
            if item.result is not None and self._capacity:
                self._vectors[item.key] = item.result
                if len(self._vectors) > self._capacity:
                    self._vectors.popitem(last=False)
                self.stats.size = len(self._vectors)


class RowMemory:
    """An LRU cache of the rows of sentences, as many sentences of long texts come again.

    Args:
        max_bytes: the most that all rows together take.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._nbytes = 0
        self._rows: OrderedDict[bytes, EmbeddingResult] = OrderedDict()

    def get(self, key: bytes) -> EmbeddingResult | None:
        """Return a row, where it is remembered."""
        row = self._rows.get(key)
        if row is not None:
            self._rows.move_to_end(key)
        return row

    def put(self, key: bytes, row: EmbeddingResult) -> None:
        """Remember a row."""
        if key in self._rows or _nbytes(row) > self._max_bytes:
            return
        self._rows[key] = row
        self._nbytes += _nbytes(row)
        while self._nbytes > self._max_bytes:
            self._nbytes -= _nbytes(self._rows.popitem(last=False)[1])


def _nbytes(row: EmbeddingResult) -> int:
    return row.vector.nbytes + _OVERHEAD_BYTES

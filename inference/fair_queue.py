"""A fair queue: requests are served in turn, independent of how many entries they have.

    a: 1 2 3 4 5 6          a batch of four:  a1 b1 c1 a2
    b: 1 2                  the next:         b2 a3 a4 a5
    c: 1

One entry of each request is served, then a second entry of each, and so on. So a request with one
entry is in the next batch, even if other requests have many. Entries of higher cost have later
turns, so short texts do not wait behind every long text. Queries go first. A batch holds entries of
one bucket only. This module knows no model.

This is self-clocked fair queueing (Golestani, 1994). The entry with the earliest due time is served
first. An entry's due time is its cost plus the later of two times: the last due time of its
request, and the clock. The clock shows the due time of the entry that is being served.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Sequence
from itertools import count
from typing import Any, Generic, TypeAlias, TypeVar

from inference.request import RequestContext


class Entry:
    """An entry of a queue; subclasses add its content.

    Args:
        waiters: the requests that wait for the entry; it has one turn for each request.
        bucket: only entries of equal buckets share a batch; None gives the entry its own batch.
        cost: the cost of the entry in a batch.

    Attributes:
        is_alone: whether the entry has a batch of its own.
        queue: the queue in which the entry waits; None before and after.
        turns: numbers of the entry's turns, by request.
    """

    __slots__ = ("bucket", "cost", "is_alone", "queue", "turns", "waiters")

    def __init__(
        self, waiters: Sequence[RequestContext], bucket: Hashable = 0, cost: int = 1
    ) -> None:
        self.waiters = waiters
        self.is_alone = bucket is None
        self.bucket = object() if bucket is None else bucket  # equals no other
        self.cost = cost
        self.queue: FairQueue[Any] | None = None
        self.turns: dict[RequestContext, int] = {}


E = TypeVar("E", bound=Entry)

# Due time and number of a turn. A turn does not hold the entry itself, so that the memory of a
# removed entry is free at once. Turns with equal due times are served in order of arrival.
_Turn: TypeAlias = tuple[int, int]
# A line: False for queries, else True; and the bucket. A batch holds entries of one line.
_Line: TypeAlias = tuple[bool, Hashable]


class FairQueue(Generic[E]):
    """The entries of many requests, in fair order."""

    def __init__(self) -> None:
        self._size = 0
        self._entries: dict[int, E] = {}  # by the numbers of their turns
        self._lines: dict[_Line, list[_Turn]] = {}  # heaps
        self._clocks = {True: 0, False: 0}  # by whether the request is a query
        self._numbers = count()

    def __len__(self) -> int:
        """Return the number of entries."""
        return self._size

    @property
    def is_query_next(self) -> bool:
        """Whether the next batch holds queries."""
        line = self._next_line()
        return line is not None and not line[0]

    def put(self, entry: E) -> None:
        """Add an entry, with one turn for each request that waits for it."""
        entry.queue = self
        self._size += 1
        for request in entry.waiters:
            self.give_turn(entry, request)

    def give_turn(self, entry: E, request: RequestContext) -> None:
        """Add a turn of a request to a waiting entry; the entry is served at its earliest turn."""
        due = max(self._clocks[request.is_query], request.due.get(self, 0)) + entry.cost
        number = next(self._numbers)
        request.due[self] = due
        entry.turns[request] = number
        self._entries[number] = entry
        turns = self._lines.setdefault((not request.is_query, entry.bucket), [])
        heapq.heappush(turns, (due, number))

    def take_turn(self, entry: E, request: RequestContext) -> None:
        """Undo `give_turn`: the request no longer waits for the entry."""
        del self._entries[entry.turns.pop(request)]

    def remove(self, entry: E) -> None:
        """Remove an entry, if it still waits."""
        if entry.queue is self:
            entry.queue = None
            self._size -= 1
            for number in entry.turns.values():
                del self._entries[number]
            entry.turns.clear()

    def entries(self) -> list[E]:
        """Return the waiting entries."""
        return list(dict.fromkeys(self._entries.values()))

    def take(self, max_size: int = 1, max_cost: float = math.inf) -> list[E]:
        """Remove and return the next batch; its entries share a bucket.

        The first entry may exceed the maximum cost alone.

        Returns:
            An empty list if the queue is empty.
        """
        line = self._next_line()
        if line is None:
            return []
        turns = self._lines[line]
        self._clocks[not line[0]] = turns[0][0]
        batch: list[E] = []
        cost = 0
        while turns and len(batch) < max_size:
            entry = self._entries.get(turns[0][1])
            if entry:
                cost += entry.cost
                if batch and cost > max_cost:
                    break
                self.remove(entry)
                batch.append(entry)
            heapq.heappop(turns)
        return batch

    def _next_line(self) -> _Line | None:
        """Return the line of the next batch; None if the queue is empty."""
        best: tuple[bool, _Turn] | None = None
        found: _Line | None = None
        for line, turns in list(self._lines.items()):
            while turns and turns[0][1] not in self._entries:
                heapq.heappop(turns)  # taken in another turn, or removed
            if not turns:
                del self._lines[line]
            elif best is None or (line[0], turns[0]) < best:
                best, found = (line[0], turns[0]), line
        return found

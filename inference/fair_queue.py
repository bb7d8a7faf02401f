"""A queue that is fair to the requests that wait, whatever each of them brings.

    a: 1 2 3 4 5 6          a batch of four:  a1 b1 c1 a2
    b: 1 2                  the next:         b2 a3 a4 a5
    c: 1

Requests are served in turn, one entry each, then a second of each: a request with one entry is in
the next batch, however many entries the others have. Entries that cost more have their turn later,
so that short texts do not wait behind every long one. Queries go before everything else. A batch
holds entries of one bucket only. It knows no model.

This is self-clocked fair queueing (Golestani, 1994): an entry is due at its request's last due
time, or at the clock where the request is new, plus its cost, and what is due first is served
first. The clock shows when the entry was due that is being served.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Sequence
from itertools import count
from typing import Any, Generic, TypeAlias, TypeVar

from inference.request import RequestContext


class Entry:
    """What waits in a queue; a subclass adds what it is.

    Args:
        waiters: the requests that wait for it; it has a turn of each.
        bucket: only entries of equal buckets are taken together; one whose bucket is None, alone.
        cost: what it weighs in a batch.

    Attributes:
        is_alone: whether it shares a batch with no other.
        queue: that it waits in; None before and after.
        turns: their numbers, by the request of each.
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

# When an entry is due, and the turn's number. Not the entry itself: what is removed, with all that
# it holds, must not wait for its turn. Entries due at one time are served as they came.
_Turn: TypeAlias = tuple[int, int]
# Whether no query waits for its entries, and their bucket. A batch is made of one line's entries.
_Line: TypeAlias = tuple[bool, Hashable]


class FairQueue(Generic[E]):
    """Entries of many requests."""

    def __init__(self) -> None:
        self._size = 0
        self._entries: dict[int, E] = {}  # by the numbers of their turns
        self._lines: dict[_Line, list[_Turn]] = {}  # heaps
        self._clocks = {True: 0, False: 0}  # of queries, and of the others
        self._numbers = count()

    def __len__(self) -> int:
        """Count the entries."""
        return self._size

    @property
    def is_query_next(self) -> bool:
        """Whether the next batch will be of queries."""
        line = self._next_line()
        return line is not None and not line[0]

    def put(self, entry: E) -> None:
        """Let an entry wait for a turn of one of its requests."""
        entry.queue = self
        self._size += 1
        for request in entry.waiters:
            self.give_turn(entry, request)

    def give_turn(self, entry: E, request: RequestContext) -> None:
        """Give an entry that waits a turn of a request; it is taken in its first turn."""
        due = max(self._clocks[request.is_query], request.due.get(self, 0)) + entry.cost
        number = next(self._numbers)
        request.due[self] = due
        entry.turns[request] = number
        self._entries[number] = entry
        turns = self._lines.setdefault((not request.is_query, entry.bucket), [])
        heapq.heappush(turns, (due, number))

    def take_turn(self, entry: E, request: RequestContext) -> None:
        """Take the turn of a request that waits no longer from an entry that waits."""
        del self._entries[entry.turns.pop(request)]

    def remove(self, entry: E) -> None:
        """Take an entry out, if it still waits."""
        if entry.queue is self:
            entry.queue = None
            self._size -= 1
            for number in entry.turns.values():
                del self._entries[number]
            entry.turns.clear()

    def entries(self) -> list[E]:
        """Return what waits."""
        return list(dict.fromkeys(self._entries.values()))

    def take(self, max_size: int = 1, max_cost: float = math.inf) -> list[E]:
        """Take a batch: of one bucket, and one entry even where that alone costs more.

        Returns:
            An empty list where nothing waits.
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
        """Return the line that the next batch will be of."""
        best: tuple[bool, _Turn] | None = None
        found: _Line | None = None
        for line, turns in list(self._lines.items()):
            while turns and turns[0][1] not in self._entries:
                heapq.heappop(turns)  # taken by another's turn, or removed
            if not turns:
                del self._lines[line]
            elif best is None or (line[0], turns[0]) < best:
                best, found = (line[0], turns[0]), line
        return found

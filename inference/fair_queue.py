"""A queue that is fair to those who wait, whatever each of them brings.

    a: 1 2 3 4 5 6          a batch of four:  a1 b1 c1 a2
    b: 1 2                  the next:         b2 a3 a4 a5
    c: 1

Callers are served in turn, one entry each, then a second of each: who comes with one entry is in
the next batch, however many the others have brought. Entries that cost more have their turn later,
so that short texts do not wait behind every long one. Queries go before everything else. A batch
holds entries of one bucket only. It knows no model.

This is self-clocked fair queueing (Golestani, 1994): an entry is due at its caller's last due time,
or at the clock where the caller is new, plus its cost, and what is due first is served first. The
clock shows when that was due which is being served.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Hashable, Iterable
from itertools import count
from typing import Any, Generic, NamedTuple, Protocol, TypeVar


class Caller:
    """One request, as those who wait for it see it.

    Args:
        is_query: whether it goes before all that are none.
    """

    __slots__ = ("due", "is_query")

    def __init__(self, *, is_query: bool = False) -> None:
        self.is_query = is_query
        self.due: dict[object, int] = {}  # its last entry, in each queue


class Follower(Protocol):
    """Whatever minds who waits for a computation."""

    def joined(self, caller: Caller) -> None:
        """Hear that another waits for it too."""
        ...

    def left(self, caller: Caller) -> None:
        """Hear that one waits no longer."""
        ...


class Party:
    """The callers that wait for one computation; more may join while it is under way.

    A party follows another where it waits for a part of what that one waits for.
    """

    __slots__ = ("at_end", "callers", "followers")

    def __init__(self, callers: Iterable[Caller] = ()) -> None:
        self.callers = list(callers)
        self.followers: set[Follower] = set()
        self.at_end: list[Callable[[], None]] = []

    @property
    def is_query(self) -> bool:
        """Whether a query waits for it."""
        return any(caller.is_query for caller in self.callers)

    def joined(self, caller: Caller) -> None:
        """Let another caller wait too."""
        self.callers.append(caller)
        for follower in self.followers:
            follower.joined(caller)

    def left(self, caller: Caller) -> None:
        """Let a caller wait no longer."""
        self.callers.remove(caller)
        for follower in self.followers:
            follower.left(caller)

    def ended(self) -> None:
        """Hear that the computation has ended, however it did."""
        for do in self.at_end:
            do()
        self.at_end.clear()  # they know their party: a cycle for each computation
        self.followers.clear()


class _Alone:
    """A bucket that equals no other."""


class Entry:
    """What waits in a queue; who queues it adds what it is.

    Args:
        party: who waits for it.
        bucket: only entries of equal buckets are taken together; one whose bucket is None, alone.
        cost: what it weighs in a batch.

    Attributes:
        number: by which the queue knows it.
    """

    __slots__ = ("bucket", "cost", "number", "party", "queue")

    def __init__(self, party: Party, bucket: Hashable = 0, cost: int = 1) -> None:
        self.party = party
        self.bucket = _Alone() if bucket is None else bucket
        self.cost = cost
        self.number: int
        self.queue: FairQueue[Any]

    @property
    def is_alone(self) -> bool:
        """Whether it shares a batch with nobody."""
        return isinstance(self.bucket, _Alone)

    def joined(self, caller: Caller) -> None:
        """Wait for another caller's turn beside those that it has."""
        self.queue.give_turn(self, caller)

    def left(self, caller: Caller) -> None:
        """Keep the turn: it harms nobody."""


E = TypeVar("E", bound=Entry)


class _Turn(NamedTuple):
    """An entry by its number: what is removed, with all that it holds, must not wait for its turn.

    Those that are due at the same time are served in the order in which they came.
    """

    due: int
    number: int


class _Line(NamedTuple):
    """A batch is made of the entries of one line."""

    is_late: bool  # no query's
    bucket: Hashable


class FairQueue(Generic[E]):
    """Entries of many callers."""

    def __init__(self) -> None:
        self._waiting: dict[int, E] = {}  # by their numbers
        self._lines: dict[_Line, list[_Turn]] = {}  # heaps
        self._clocks = {True: 0, False: 0}  # of queries, and of the others
        self._numbers = count()

    def __len__(self) -> int:
        """Count the entries."""
        return len(self._waiting)

    @property
    def is_query_next(self) -> bool:
        """Whether the next batch will be of queries."""
        line = self._next_line
        return line is not None and not line.is_late

    def put(self, entry: E) -> None:
        """Let an entry wait for the turn of one of its callers.

        One without a caller has a newcomer's: its last has just gone, and it will be removed, or
        joined by another. Without a turn it would be waited for in vain.
        """
        entry.queue = self
        entry.number = next(self._numbers)
        self._waiting[entry.number] = entry
        entry.party.followers.add(entry)
        for caller in entry.party.callers or [Caller()]:
            self.give_turn(entry, caller)

    def give_turn(self, entry: E, caller: Caller) -> None:
        """Give an entry that waits a turn of a caller; it is taken with the first that it has."""
        due = max(self._clocks[caller.is_query], caller.due.get(self, 0)) + entry.cost
        caller.due[self] = due
        turns = self._lines.setdefault(_Line(not caller.is_query, entry.bucket), [])
        heapq.heappush(turns, _Turn(due, entry.number))

    def remove(self, entry: E) -> None:
        """Take an entry out, if it still waits."""
        self._waiting.pop(entry.number, None)
        entry.party.followers.discard(entry)

    def take(self, max_size: int = 1, max_cost: float = math.inf) -> list[E]:
        """Take a batch: of one bucket, and one entry even where that alone costs more.

        Returns:
            Nothing where nothing waits.
        """
        line = self._next_line
        if line is None:
            return []
        turns = self._lines[line]
        self._clocks[not line.is_late] = turns[0].due
        batch: list[E] = []
        cost = 0
        while turns and len(batch) < max_size:
            entry = self._waiting.get(turns[0].number)
            if entry:
                cost += entry.cost
                if batch and cost > max_cost:
                    break
                self.remove(entry)
                batch.append(entry)
            heapq.heappop(turns)
        return batch

    @property
    def _next_line(self) -> _Line | None:
        """The line that the next batch will be of."""
        for line, turns in list(self._lines.items()):
            while turns and turns[0].number not in self._waiting:
                heapq.heappop(turns)  # taken by another's turn, or removed
            if not turns:
                del self._lines[line]
        return min(
            self._lines,
            key=lambda line: (line.is_late, self._lines[line][0]),
            default=None,
        )

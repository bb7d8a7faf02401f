"""Equal inputs are computed once: those in flight share one computation, repeats are remembered.

It pays because one picture reaches this service once for every named vector of a collection, within
milliseconds. It knows neither texts nor images: keys are digests, values are whatever is computed.

    key -> remembered: its value
        -> in flight: wait for it with those who do
        -> unknown: begin a flight
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeAlias, TypeVar

from errors import BackendError
from inference.fair_queue import Caller, Party
from inference.tasks import exception_of

V = TypeVar("V")
# Computes a value for those who wait for it; what it does before its coroutine is done at once.
Compute: TypeAlias = Callable[[Party], Coroutine[None, None, V]]


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


class _Flight(Generic[V]):
    """The computation of a value, and who waits for it."""

    __slots__ = ("key", "party", "task")

    def __init__(self, key: bytes, waiter: Caller | Party, compute: Compute[V]) -> None:
        self.key = key
        self.party = Party()
        _join(self.party, waiter)
        self.task: asyncio.Task[V] = asyncio.create_task(compute(self.party))


class VectorCache(Generic[V]):
    """Remembers the values that were used last.

    Args:
        capacity: most that is remembered; 0 remembers nothing.
        weigh: what a value takes of it; by default, 1.
    """

    def __init__(self, capacity: int, weigh: Callable[[V], int] = lambda _: 1) -> None:
        self.stats = CacheStats()
        self._capacity = capacity
        self._weigh = weigh
        self._weight = 0
        self._values: OrderedDict[bytes, V] = OrderedDict()
        self._flights: dict[bytes, _Flight[V]] = {}

    def look_up(self, key: bytes) -> V | None:
        """Return the value of a key, where it is remembered."""
        value = self._values.get(key)
        if value is not None:
            self.stats.hits += 1
            self._values.move_to_end(key)
        return value

    def knows(self, key: bytes) -> bool:
        """Tell whether a value is remembered, or being computed."""
        return key in self._values or key in self._flights

    async def outcomes(
        self, wanted: Mapping[bytes, Compute[V]], waiter: Caller | Party
    ) -> dict[bytes, V | Exception]:
        """Return the value of each key, or the error of its computation.

        What nobody has computed or computes is computed now. Once a computation fails, those that
        are under way are not waited for any more, and their keys are left out; one that nobody else
        waits for is cancelled.
        """
        found = {key: self.look_up(key) for key in wanted}
        known: dict[bytes, V | Exception] = {
            key: value for key, value in found.items() if value is not None
        }
        if len(known) == len(wanted):
            return known
        flights = [
            self._board(key, waiter, compute) for key, compute in wanted.items() if key not in known
        ]
        await self._land(flights, waiter)
        ended = {flight.key: _outcome(flight.task) for flight in flights if flight.task.done()}
        return known | ended

    def _board(self, key: bytes, waiter: Caller | Party, compute: Compute[V]) -> _Flight[V]:
        flight = self._flights.get(key)
        if flight:
            self.stats.shared += 1
            _join(flight.party, waiter)
            return flight
        self.stats.misses += 1
        flight = self._flights[key] = _Flight(key, waiter, compute)
        flight.task.add_done_callback(partial(self._ended, flight))
        return flight

    async def _land(self, flights: Sequence[_Flight[V]], waiter: Caller | Party) -> None:
        try:
            await asyncio.wait(
                [flight.task for flight in flights], return_when=asyncio.FIRST_EXCEPTION
            )
        finally:
            for flight in flights:
                self._leave(flight, waiter)

    def _leave(self, flight: _Flight[V], waiter: Caller | Party) -> None:
        _leave(flight.party, waiter)
        if not flight.party.callers and not flight.task.done():
            self._forget(flight)  # at once, so that nobody joins what is about to end
            flight.task.cancel()

    def _ended(self, flight: _Flight[V], _: object) -> None:
        self._forget(flight)
        flight.party.ended()
        if flight.task.cancelled() or flight.task.exception():
            return
        value = flight.task.result()
        weight = self._weigh(value)
        if weight > self._capacity:
            return
        self._values[flight.key] = value
        self._weight += weight
        while self._weight > self._capacity:
            self._weight -= self._weigh(self._values.popitem(last=False)[1])
        self.stats.size = len(self._values)

    def _forget(self, flight: _Flight[V]) -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]


def _join(party: Party, waiter: Caller | Party) -> None:
    if isinstance(waiter, Caller):
        party.joined(waiter)
        return
    waiter.followers.add(party)
    for caller in waiter.callers:
        party.joined(caller)


def _leave(party: Party, waiter: Caller | Party) -> None:
    if isinstance(waiter, Caller):
        party.left(waiter)
        return
    waiter.followers.discard(party)
    for caller in waiter.callers:
        party.left(caller)


def value_of(outcome: V | Exception) -> V:
    """Return a value, or raise the error in its place.

    Raises:
        Exception: whatever it is.
    """
    if isinstance(outcome, Exception):
        try:
            raise outcome
        finally:
            del outcome  # the error knows this frame: a cycle
    return outcome


def _outcome(task: asyncio.Task[V]) -> V | Exception:
    if task.cancelled():
        return BackendError("the computation was cancelled")
    error = task.exception()
    return task.result() if error is None else exception_of(error)

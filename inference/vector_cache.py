"""Equal inputs are computed once: those in flight share one computation, repeats are remembered.

It pays because one picture reaches this service once for every named vector of a collection, within
milliseconds. It knows neither texts nor images: keys are digests, values are whatever is computed.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Generic, TypeVar

V = TypeVar("V")


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


@dataclass(eq=False)
class _Flight(Generic[V]):
    key: bytes
    task: asyncio.Task[V]
    waiters: int = 0


class VectorCache(Generic[V]):
    """Remembers the most recently used values, at most `max_entries`; 0 remembers none."""

    def __init__(self, max_entries: int) -> None:
        self.stats = CacheStats()
        self._max_entries = max_entries
        self._values: OrderedDict[bytes, V] = OrderedDict()
        self._flights: dict[bytes, _Flight[V]] = {}

    async def get_or_compute(
        self, key: bytes, compute: Callable[[], Coroutine[None, None, V]]
    ) -> V:
        """Return the value of `key`, computing it if no one has or does.

        A computation is cancelled when the last one that waits for it is gone.

        Raises:
            Exception: whatever `compute` raises, to all who wait; it is not remembered.
        """
        if key in self._values:
            self.stats.hits += 1
            self._values.move_to_end(key)
            return self._values[key]
        return await self._wait(self._join(key, compute))

    def _join(self, key: bytes, compute: Callable[[], Coroutine[None, None, V]]) -> _Flight[V]:
        if key in self._flights:
            self.stats.shared += 1
            return self._flights[key]
        self.stats.misses += 1
        flight = _Flight(key, asyncio.create_task(compute()))
        flight.task.add_done_callback(lambda _: self._land(flight))
        self._flights[key] = flight
        return flight

    async def _wait(self, flight: _Flight[V]) -> V:
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                self._forget(flight)  # at once, so that nobody joins what is about to end
                flight.task.cancel()

    def _land(self, flight: _Flight[V]) -> None:
        self._forget(flight)
        if flight.task.cancelled() or flight.task.exception() or not self._max_entries:
            return
        self._values[flight.key] = flight.task.result()
        if len(self._values) > self._max_entries:
            self._values.popitem(last=False)
        self.stats.size = len(self._values)

    def _forget(self, flight: _Flight[V]) -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

"""Who is prepared next: no more at a time than there are threads, no more ahead than is needed.

Those who wait are let in by turns, so that a lone picture does not wait behind another request's
two hundred. What is prepared waits for the model and takes memory: while it takes too much, nobody
is let in.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from inference.fair_queue import Entry, FairQueue, Party

# What is prepared and waits may take so much memory.
AHEAD_BYTES = 16_000_000


class _Waiting(Entry):
    """A future that ends when it is this entry's turn."""

    __slots__ = ("let_in",)

    def __init__(self, party: Party) -> None:
        super().__init__(party)
        self.let_in: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Place:
    """The place of one item that was let in."""

    def __init__(self, entrance: Entrance) -> None:
        self._entrance = entrance
        self._nbytes: int | None = None  # None while it is being prepared

    def prepared(self, nbytes: int) -> None:
        """Make room for the next to be prepared; from now on hold memory."""
        self._entrance.busy -= 1
        self._entrance.nbytes += nbytes
        self._nbytes = nbytes
        self._entrance.admit()

    def leave(self) -> None:
        """End."""
        if self._nbytes is None:
            self._entrance.busy -= 1
        else:
            self._entrance.nbytes -= self._nbytes
        self._entrance.admit()


class Entrance:
    """Lets items in to be prepared.

    Args:
        max_busy: most that are prepared at a time.
        max_bytes: nobody is let in while those that are prepared take so much memory. So one that
            is larger than all of it passes, alone.
    """

    def __init__(self, max_busy: int, max_bytes: int = AHEAD_BYTES) -> None:
        self._max_bytes = max_bytes
        self.busy = 0
        self.nbytes = 0
        self._max_busy = max_busy
        self._queue: FairQueue[_Waiting] = FairQueue()

    @asynccontextmanager
    async def entered(self, party: Party) -> AsyncIterator[Place]:
        """Wait for a turn of the party, and hold the place to the end."""
        if self._has_room and not self._queue:
            self.busy += 1
        else:
            await self._turn_of(party)
        place = Place(self)
        try:
            yield place
        finally:
            place.leave()

    @property
    def _has_room(self) -> bool:
        return self.busy < self._max_busy and self.nbytes < self._max_bytes

    async def _turn_of(self, party: Party) -> None:
        entry = _Waiting(party)
        self._queue.put(entry)
        try:
            await entry.let_in
        except asyncio.CancelledError:
            self._give_up(entry)
            raise

    def _give_up(self, entry: _Waiting) -> None:
        self._queue.remove(entry)
        if entry.let_in.done() and not entry.let_in.cancelled():  # it was let in meanwhile
            self.busy -= 1
            self.admit()

    def make_room_for(self, nbytes: int) -> None:
        """Let what is prepared take so much memory, if that is more than it may."""
        self._max_bytes = max(self._max_bytes, nbytes)

    def admit(self) -> None:
        """Let in as many as there is room for."""
        while self._has_room:
            taken = self._queue.take()
            if not taken:
                return
            if not taken[0].let_in.done():  # cancelled, and not yet removed
                self.busy += 1
                taken[0].let_in.set_result(None)

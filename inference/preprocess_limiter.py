"""Bounds preprocessing: so many items at a time, and so much memory of items that are ready.

Items that wait are let in by turns, so that a lone image does not wait behind another request's two
hundred. An item that is preprocessed waits for the model and takes memory: while they take too
much, none is let in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from inference.capacity import Capacity
from inference.fair_queue import Entry, FairQueue
from inference.request import RequestContext

AHEAD_BYTES = 16_000_000  # of items that are preprocessed and wait, or more for large ones:
_BATCHES_AHEAD = 2  # are preprocessed, so that the model need not wait


class Turn(Entry):
    """Waits for a slot.

    Attributes:
        granted: ends when the slot is there.
    """

    __slots__ = ("granted",)

    def __init__(self, waiters: Sequence[RequestContext]) -> None:
        super().__init__(waiters)
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Slot:
    """The place of one item from its preprocessing to its end."""

    __slots__ = ("_limiter", "_nbytes")

    def __init__(self, limiter: PreprocessLimiter) -> None:
        self._limiter = limiter
        self._nbytes: int | None = None  # None while the item is being preprocessed

    def hold(self, nbytes: int) -> None:
        """Let another item be preprocessed; from now on hold memory."""
        self._limiter.busy -= 1
        self._limiter.nbytes += nbytes
        self._nbytes = nbytes
        self._limiter.grant()

    def release(self) -> None:
        """Give the place back."""
        if self._nbytes is None:
            self._limiter.busy -= 1
        else:
            self._limiter.nbytes -= self._nbytes
        self._limiter.grant()


class PreprocessLimiter:
    """Lets items in to be preprocessed.

    Args:
        max_busy: most that are preprocessed at a time.
        capacity: of the devices that compute them; two batches may be ready.

    Attributes:
        busy: how many are being preprocessed.
        nbytes: memory of those that are ready. None is let in while it is too much, so one that is
            larger than all of it passes, alone.
        item_nbytes: memory of a usual item.
    """

    def __init__(self, max_busy: int, capacity: Capacity) -> None:
        self.busy = 0
        self.nbytes = 0
        self.item_nbytes = 0
        self._max_busy = max_busy
        self._capacity = capacity
        self._queue: FairQueue[Turn] = FairQueue()

    async def acquire(self, turn: Turn) -> Slot:
        """Wait for a slot."""
        if self._has_room() and not self._queue:
            self.busy += 1
            return Slot(self)
        self._queue.put(turn)
        try:
            await turn.granted
        except asyncio.CancelledError:
            self._queue.remove(turn)
            if turn.granted.done() and not turn.granted.cancelled():  # it was let in meanwhile
                self.busy -= 1
                self.grant()
            raise
        return Slot(self)

    def grant(self) -> None:
        """Let in as many as there is room for."""
        while self._has_room() and (taken := self._queue.take()):
            if not taken[0].granted.done():  # cancelled, and not yet removed
                self.busy += 1
                taken[0].granted.set_result(None)

    def _has_room(self) -> bool:
        batches = _BATCHES_AHEAD * self._capacity.max_batch_size * self.item_nbytes
        return self.busy < self._max_busy and self.nbytes < max(AHEAD_BYTES, batches)

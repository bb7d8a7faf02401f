"""Limits preprocessing: the number of items at a time, and the memory of preprocessed items.

Waiting items are admitted in fair turns, so that a single image does not wait behind two hundred of
another request. Preprocessed items wait for the model and take memory: while they take too much, no
item is admitted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from inference.capacity import Capacity
from inference.fair_queue import Entry, FairQueue
from inference.request import RequestContext

AHEAD_BYTES = 16_000_000  # maximum memory of preprocessed items; more if items are large:
_BATCHES_AHEAD = 2  # batches of preprocessed items, so that the model does not wait


class Turn(Entry):
    """The turn of an item that waits for a slot.

    Attributes:
        granted: a future that ends when a slot is granted.
    """

    __slots__ = ("granted",)

    def __init__(self, waiters: Sequence[RequestContext]) -> None:
        super().__init__(waiters)
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Slot:
    """The slot of an item, from its preprocessing to its end."""

    __slots__ = ("_limiter", "_nbytes")

    def __init__(self, limiter: PreprocessLimiter) -> None:
        self._limiter = limiter
        self._nbytes: int | None = None  # None while the item is being preprocessed

    def hold(self, nbytes: int) -> None:
        """End the preprocessing; from now on the slot counts the item's memory."""
        self._limiter.busy -= 1
        self._limiter.nbytes += nbytes
        self._nbytes = nbytes
        self._limiter.grant()

    def release(self) -> None:
        """Free the slot and its memory for waiting items."""
        if self._nbytes is None:
            self._limiter.busy -= 1
        else:
            self._limiter.nbytes -= self._nbytes
        self._limiter.grant()


class PreprocessLimiter:
    """Grants slots for preprocessing in threads, within a number of items and of bytes.

    Args:
        max_busy: maximum number of items that are preprocessed at a time.
        capacity: limits of a batch; two batches may be preprocessed ahead.

    Attributes:
        busy: number of items that are being preprocessed.
        nbytes: bytes of preprocessed items. No slot is granted while they exceed the maximum, so
            one item may be larger than the maximum.
        item_nbytes: bytes of a preprocessed sample item.
    """

    def __init__(self, max_busy: int, capacity: Capacity) -> None:
        self.busy = 0
        self.nbytes = 0
        self.item_nbytes = 0
        self._max_busy = max_busy
        self._capacity = capacity
        self._queue: FairQueue[Turn] = FairQueue()

    async def acquire(self, turn: Turn) -> Slot:
        """Wait until a slot is granted, and return it."""
        if self._has_room() and not self._queue:
            self.busy += 1
            return Slot(self)
        self._queue.put(turn)
        try:
            await turn.granted
        except asyncio.CancelledError:
            self._queue.remove(turn)
            if turn.granted.done() and not turn.granted.cancelled():  # it was granted meanwhile
                self.busy -= 1
                self.grant()
            raise
        return Slot(self)

    def grant(self) -> None:
        """Grant slots to waiting items, as far as the limits allow."""
        while self._has_room() and (taken := self._queue.take()):
            if not taken[0].granted.done():  # else it is cancelled, but not removed yet
                self.busy += 1
                taken[0].granted.set_result(None)

    def _has_room(self) -> bool:
        batches = _BATCHES_AHEAD * self._capacity.max_batch_size * self.item_nbytes
        return self.busy < self._max_busy and self.nbytes < max(AHEAD_BYTES, batches)

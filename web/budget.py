"""Bounds the memory that the bodies of all requests take together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from errors import QueueFullError


class ByteBudget:
    """Bounds the bytes of all requests that are being read, wait or are computed."""

    def __init__(self, max_bytes: int) -> None:
        self.used = 0
        self._max_bytes = max_bytes

    @contextmanager
    def reserved(self) -> Iterator[Reservation]:
        """Give a reservation that can grow; what it holds is given back at the end."""
        reservation = Reservation(self)
        try:
            yield reservation
        finally:
            self.used -= reservation.held

    def take(self, count: int) -> None:
        """Take bytes out of the budget.

        Raises:
            QueueFullError: it does not hold so many.
        """
        self.check(count)
        self.used += count

    def check(self, count: int) -> None:
        """Look whether the budget holds so many bytes, and take none.

        Raises:
            QueueFullError: it does not.
        """
        if self.used and self.used + count > self._max_bytes:
            raise QueueFullError(
                f"overloaded: requests of {self.used / 1e6:.0f} MB wait already; "
                "send less at a time",
                retry_after_s=1,
            )


class Reservation:
    """The bytes that one request holds."""

    def __init__(self, budget: ByteBudget) -> None:
        self.held = 0
        self._budget = budget

    def grow_to(self, size: int) -> None:
        """Hold at least so many bytes.

        Raises:
            QueueFullError: the budget does not hold them.
        """
        if size > self.held:
            self._budget.take(size - self.held)
            self.held = size

"""Bounds the memory that the bodies of all requests take together."""

from __future__ import annotations

from contextlib import AbstractContextManager

from typing_extensions import override

from errors import QueueFullError


class ByteBudget:
    """Bounds the bytes of all requests that are being read, wait or are computed.

    One that is larger than all of it passes, alone.
    """

    def __init__(self, max_bytes: int) -> None:
        self.used = 0
        self._max_bytes = max_bytes

    def reserved(self) -> Reservation:
        """Give a reservation that can grow; what it holds is given back at its end."""
        return Reservation(self)

    def check(self, count: int, held: int = 0) -> None:
        """Look whether the budget holds so many bytes beside those that the same request holds.

        Raises:
            QueueFullError: it does not.
        """
        if self.used > held and self.used + count > self._max_bytes:
            raise QueueFullError(
                f"overloaded: requests of {self.used / 1e6:.0f} MB wait already; "
                "send less at a time",
                retry_after_s=1,
            )


class Reservation(AbstractContextManager["Reservation"]):
    """The bytes that one request holds, until it ends."""

    def __init__(self, budget: ByteBudget) -> None:
        self.held = 0
        self._budget = budget

    @override
    def __exit__(self, *_: object) -> None:
        self._budget.used -= self.held

    def grow_to(self, size: int) -> None:
        """Hold at least so many bytes.

        Raises:
            QueueFullError: the budget does not hold them.
        """
        more = size - self.held
        if more > 0:
            self._budget.check(more, self.held)
            self._budget.used += more
            self.held = size

"""Bounds the memory of the bodies of all requests together."""

from __future__ import annotations

from contextlib import AbstractContextManager

from typing_extensions import override

from errors import QueueFullError


class ByteBudget:
    """Bounds the total bytes of unfinished requests.

    A request that is larger than the bound passes alone.
    """

    def __init__(self, max_bytes: int) -> None:
        self.used = 0
        self._max_bytes = max_bytes

    def reserved(self) -> Reservation:
        """Return an empty reservation, which can grow; it is released at its end."""
        return Reservation(self)

    def check(self, count: int, held: int = 0) -> None:
        """Check whether the budget has room for `count` bytes of a request that holds `held` bytes.

        Raises:
            QueueFullError: there is no room.
        """
        if self.used > held and self.used + count > self._max_bytes:
            raise QueueFullError(
                f"overloaded: requests of {self.used / 1e6:.0f} MB wait already; "
                "send less at a time",
                retry_after_s=1,
            )


class Reservation(AbstractContextManager["Reservation"]):
    """The reserved bytes of a request."""

    def __init__(self, budget: ByteBudget) -> None:
        self.held = 0
        self._budget = budget

    @override
    def __exit__(self, *_: object) -> None:
        self._budget.used -= self.held

    def grow_to(self, size: int) -> None:
        """Reserve at least `size` bytes in total.

        Raises:
            QueueFullError: the budget has no room.
        """
        more = size - self.held
        if more > 0:
            self._budget.check(more, self.held)
            self._budget.used += more
            self.held = size

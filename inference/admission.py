"""Who may wait: bounds on what waits, and on the wait itself by the measured rate.

Refusing at once what cannot be answered in time is kinder than a timeout: the caller learns it in
milliseconds, and those who wait are answered. It knows no HTTP and no model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from errors import QueueFullError

# Requests are let in as long as the wait that is expected is this share of the longest one: the
# rate is an estimate, and an accepted request shall be answered.
_SHARE_OF_TIMEOUT = 0.7
_HALF_LIFE_S = 10.0  # of what the rate remembers, in seconds of work


class Admission:
    """Counts the items that wait for, or are in, one queue, and refuses those that are too many.

    The wait is estimated from the batches that were run, and from nothing that clients do: neither
    broken items nor those that are given up make the model slower.

    Args:
        max_items: most of them at a time.
        timeout_s: longest time from a request to its answer.
    """

    def __init__(self, max_items: int, timeout_s: float) -> None:
        self.items = 0
        self._max_items = max_items
        self._max_wait_s = _SHARE_OF_TIMEOUT * timeout_s
        self._work_s = 0.0
        self._done = 0.0

    def observe(self, run_s: float, size: int) -> None:
        """Take note of a batch: the seconds that it took, and its items."""
        faded = 0.5 ** (run_s / _HALF_LIFE_S)
        self._work_s = self._work_s * faded + run_s
        self._done = self._done * faded + size

    @property
    def expected_wait_s(self) -> float:
        """Seconds until an item that came now would be answered; 0 before the first batch."""
        return (self.items + 1) * self._work_s / self._done if self._done else 0.0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Count an item until it is answered or given up.

        Raises:
            QueueFullError: there are too many, or it could not be answered in time.
        """
        self._check()
        self.items += 1
        try:
            yield
        finally:
            self.items -= 1

    def _check(self) -> None:
        wait_s = self.expected_wait_s
        if self.items and wait_s > self._max_wait_s:
            raise QueueFullError(
                f"overloaded: an answer would take about {wait_s:.0f} s; send less at a time",
                retry_after_s=math.ceil(wait_s - self._max_wait_s),
            )
        if self.items >= self._max_items:
            raise QueueFullError(
                f"overloaded: {self.items} items wait already; send less at a time",
                retry_after_s=max(1, math.ceil(wait_s / 2)),
            )


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

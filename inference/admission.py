"""Who may wait: bounds on what waits, and on the wait itself by the measured rate.

Refusing at once what cannot be answered in time is kinder than a timeout: the caller learns it in
milliseconds, and those who wait are answered. It knows no HTTP and no model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from inference.errors import InvalidInputError, QueueFullError

# Requests are let in as long as the wait that is expected is this share of the longest one: the
# rate is an estimate, and an accepted request shall be answered.
_SHARE_OF_TIMEOUT = 0.7
_LEAST = 1e-9  # that is ever left of what was done: never 0, which would mean that nothing was
_HALF_LIFE_S = 10.0  # of what the rate remembers
_LONGEST_WAIT_S = 3600.0  # that is ever expected: after hours without an answer it is no figure


class Rate:
    """Measures how long an item takes while there is work, the last seconds counting most."""

    def __init__(self) -> None:
        self._busy_s = 0.0
        self._done = 0.0

    def seconds_per_item(self, pending_s: float) -> float:
        """Seconds from one finished item to the next; 0 before the first.

        Args:
            pending_s: seconds with work that were not counted yet.
        """
        return (self._busy_s + pending_s) / self._done if self._done else 0.0

    def add(self, busy_s: float, done: int) -> None:
        """Count seconds with work, and the items that were finished at their end."""
        faded = 0.5 ** (busy_s / _HALF_LIFE_S)
        self._busy_s = self._busy_s * faded + busy_s
        self._done = max(self._done * faded + done, _LEAST * (self._done > 0))


class Admission:
    """Counts the items that wait for, or are in, one queue, and refuses those that are too many.

    Args:
        max_items: most of them at a time.
        timeout_s: longest time from a request to its answer.
        clock: tells the time in seconds.
    """

    def __init__(
        self, max_items: int, timeout_s: float, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._inside: dict[object, float] = {}  # when each came, the oldest first
        self._max_items = max_items
        self._max_wait_s = _SHARE_OF_TIMEOUT * timeout_s
        self._clock = clock
        self._rate = Rate()
        self._counted_until_s = clock()

    @property
    def items(self) -> int:
        """How many are inside."""
        return len(self._inside)

    @property
    def expected_wait_s(self) -> float:
        """Seconds until an item that came now would be answered."""
        pending_s = self._uncounted_s(next(iter(self._inside.values()))) if self._inside else 0.0
        wait_s = (self.items + 1) * self._rate.seconds_per_item(pending_s)
        return min(wait_s, _LONGEST_WAIT_S)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Count an item until it is answered or given up.

        Raises:
            QueueFullError: there are too many, or it could not be answered in time.
        """
        self._check()
        item, came_s = object(), self._clock()
        self._inside[item] = came_s
        try:
            yield
        except InvalidInputError:
            raise  # it never reached the model: neither its time nor its end tells the rate
        except BaseException:
            self._count(came_s, done=0)
            raise
        else:
            self._count(came_s, done=1)
        finally:
            del self._inside[item]

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

    def _count(self, came_s: float, done: int) -> None:
        self._rate.add(self._uncounted_s(came_s), done)
        self._counted_until_s = self._clock()

    def _uncounted_s(self, since_s: float) -> float:
        return self._clock() - max(since_s, self._counted_until_s)


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

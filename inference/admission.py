"""Who may wait: bounds on what waits, and on the wait itself by the measured rate.

Refusing at once what cannot be answered in time is kinder than a timeout: the caller learns it in
milliseconds, and those who wait are answered. It knows no HTTP and no model.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable

from errors import QueueFullError, RequestTooLargeError
from inference.fair_queue import Caller, Party

# Requests are let in as long as the wait that is expected is this share of the longest one: the
# rate is an estimate, and an accepted request shall be answered.
_SHARE_OF_TIMEOUT = 0.7
# A request is refused for good only after so many passes as large as its own, not long ago: one may
# have been held up, and a slow hour of the machine shall keep nobody out for ever.
_PASSES_TO_JUDGE = 2
_NOT_LONG_AGO_S = 600.0
_HALF_LIFE_S = 10.0  # of what the rate remembers, in seconds of work


class Claim:
    """What one computation still costs, held for one of those who wait for it."""

    __slots__ = ("_admission", "_caller", "_is_over", "_party", "cost")

    def __init__(self, admission: Admission, party: Party, cost: int) -> None:
        self.cost = cost
        self._admission = admission
        self._party = party
        self._caller = party.callers[0]
        self._is_over = False
        admission.items += 1
        admission.owe(self._caller, cost)
        party.followers.add(self)
        party.at_end.append(self._release)

    def set(self, cost: int) -> None:
        """Correct the cost, as more is known of it."""
        if not self._is_over:
            self._admission.owe(self._caller, cost - self.cost)
            self.cost = cost

    def reduce(self, by: int) -> None:
        """Reduce the cost, as a part is done."""
        self.set(max(0, self.cost - by))

    def joined(self, caller: Caller) -> None:
        """Stay with whom it is held for."""

    def left(self, caller: Caller) -> None:
        """Be held for another, where the one that it was held for has gone."""
        if caller is self._caller and self._party.callers:
            cost = self.cost
            self.set(0)
            self._admission.forget(caller)
            self._caller = self._party.callers[0]
            self.set(cost)

    def _release(self) -> None:
        self.set(0)
        self._is_over = True
        self._admission.items -= 1
        self._admission.forget(self._caller)


class Admission:
    """Holds what waits for, or is in, one queue, and refuses what is too much.

    The wait is estimated from the batches that were run, and from nothing that clients do: neither
    broken items nor those that are given up make the model slower. The queue is fair, so a request
    waits for no more of each other one than it brings itself; and a query only for queries.

    Args:
        max_items: most of them at a time.
        timeout_s: longest time from a request to its answer.
        max_batch_size: most items in one pass.
        clock: tells the time in seconds.

    Attributes:
        items: how many inputs wait or are computed.
        cost: what they still cost together.
        costs: what each of those who wait still costs.
        max_pass_cost: most that a pass costs, but for one item alone.
    """

    def __init__(
        self,
        max_items: int,
        timeout_s: float,
        max_batch_size: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.items = 0
        self.cost = 0
        self.costs: Counter[Caller] = Counter()
        self._max_items = max_items
        self.max_pass_cost = math.inf
        self._timeout_s = timeout_s
        self._max_batch_size = max_batch_size
        self._clock = clock
        self._work_s = 0.0
        self._done = 0.0
        # When the last passes were, by the magnitude of their cost.
        self._passes: dict[int, deque[float]] = {}
        self._best_s = math.inf  # a unit of cost

    def observe(self, run_s: float, cost: int) -> None:
        """Take note of a batch: the seconds that it took, and its cost."""
        faded = 0.5 ** (run_s / _HALF_LIFE_S)
        self._work_s = self._work_s * faded + run_s
        self._done = self._done * faded + cost
        passes = self._passes.setdefault(cost.bit_length(), deque(maxlen=_PASSES_TO_JUDGE))
        passes.append(self._clock())
        self._best_s = min(self._best_s, run_s / cost)

    @property
    def cost_s(self) -> float:
        """Seconds a unit of cost; 0 before the first batch."""
        return self._work_s / self._done if self._done else 0.0

    @property
    def work_s(self) -> float:
        """Seconds of work that wait, or are in progress."""
        return self.cost_s * self.cost

    def expected_wait_s(self, caller: Caller, cost: int) -> float:
        """Seconds until a request that came now would be answered."""
        before = sum(
            min(owed, cost)
            for other, owed in self.costs.items()
            if other.is_query or not caller.is_query
        )
        return (before + cost) * self.cost_s

    def check(self, caller: Caller, cost: int, items: int) -> None:
        """Look whether a request may wait.

        Raises:
            RequestTooLargeError: it could not be answered in time if nothing else waited.
            QueueFullError: too much waits.
        """
        self._check_alone(cost, items)
        wait_s = self.work_s + cost * self.cost_s  # at most: those in front have their turns only
        longest_s = _SHARE_OF_TIMEOUT * self._timeout_s
        if self.items and wait_s > longest_s:
            wait_s = self.expected_wait_s(caller, cost)
        if self.items and wait_s > longest_s:
            raise QueueFullError(
                f"overloaded: an answer would take about {wait_s:.0f} s; send less at a time",
                retry_after_s=math.ceil(wait_s - longest_s),
            )
        if self.items + items > self._max_items:
            raise QueueFullError(
                f"overloaded: {self.items} items wait already; send less at a time",
                retry_after_s=max(1, math.ceil(wait_s / 2)),
            )

    def _check_alone(self, cost: int, items: int) -> None:
        if items > self._max_items:
            raise RequestTooLargeError(
                f"{items} items; at most {self._max_items} may wait at a time", "items"
            )
        alone_s = cost * self._best_s
        if alone_s > self._timeout_s and self._can_judge(cost, items):
            fits = int(items * self._timeout_s / alone_s)
            advice = f"send at most {fits} at a time" if fits else "send a smaller one"
            raise RequestTooLargeError(
                f"computing {items} of this size takes at least {alone_s:.0f} s here, and answers "
                f"must be ready in {self._timeout_s:g} s: {advice}",
                "work",
            )

    def _can_judge(self, cost: int, items: int) -> bool:
        """Tell whether passes were as large as a request's own: of small ones most is overhead.

        After two short texts a GPU seems a hundred times as slow as it is. A request that is let in
        for want of knowledge brings it.
        """
        own = int(min(cost, cost * self._max_batch_size / items, self.max_pass_cost / 2))
        large = (seen for size, seen in self._passes.items() if size >= own.bit_length())
        since_s = self._clock() - _NOT_LONG_AGO_S
        recent = [at_s for seen in large for at_s in seen if at_s > since_s]
        return len(recent) >= _PASSES_TO_JUDGE

    def claim(self, party: Party, cost: int) -> Claim:
        """Hold the cost of one computation, until its party hears that it has ended."""
        return Claim(self, party, cost)

    def owe(self, caller: Caller, cost: int) -> None:
        """Add to what one who waits still costs."""
        self.costs[caller] += cost
        self.cost += cost

    def forget(self, caller: Caller) -> None:
        """Forget one who owes nothing."""
        if not self.costs[caller]:
            del self.costs[caller]

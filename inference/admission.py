"""Admission control: bounds the number of waiting items, and their expected wait.

The wait is estimated from the measured rate, and from the queued work of the models that share the
devices. A request that cannot be answered in time is rejected at once, and not after a timeout.
This module knows no HTTP and no model: `web/errors.py` answers its errors with 413 and 429.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from errors import QueueFullError, RequestTooLargeError
from inference.capacity import Capacity
from inference.device import LONGEST_BATCH_S, DeviceShare
from inference.request import RequestContext

# A request is admitted if its expected wait is at most this share of the timeout: the rate is an
# estimate, and an admitted request must be answered in time.
_SHARE_OF_TIMEOUT = 0.7


class Permit:
    """The permit of one item to wait in the queue.

    The item's remaining cost is charged to one of the requests that wait for the item.
    """

    __slots__ = ("_admission", "_is_released", "cost", "payer")

    def __init__(self, admission: Admission, payer: RequestContext, cost: int) -> None:
        self.cost = cost
        self.payer = payer
        self._admission = admission
        self._is_released = False
        admission.items += 1
        admission.charge(payer, cost)

    def set_cost(self, cost: int) -> None:
        """Set the remaining cost: a better estimate, or the rest after a part was computed."""
        if not self._is_released:
            self._admission.charge(self.payer, cost - self.cost)
            self.cost = cost

    def pass_to(self, payer: RequestContext) -> None:
        """Charge the remaining cost to another request."""
        self._admission.charge(self.payer, -self.cost)
        self.payer = payer
        self._admission.charge(payer, self.cost)

    def release(self) -> None:
        """End the permit: its item and cost no longer count as waiting."""
        if not self._is_released:
            self._admission.charge(self.payer, -self.cost)
            self._admission.items -= 1
            self._is_released = True


class Admission:
    """Counts waiting items and their cost, and rejects requests that exceed the bounds.

    The wait is estimated from computed batches only: broken or cancelled items do not change it.
    The queue is fair. So a request waits for each other request only up to its own cost, and a
    query waits for queries only. The models on a device have equal shares of it, and idle models
    may become busy at any time. So the timeout is divided among them.

    Args:
        max_items: maximum number of items that wait or are being computed.
        capacity: measured rate of the devices, and the limits of a batch.
        shares: the model's share of each device.

    Attributes:
        items: number of items that wait or are being computed.
        cost: remaining cost of these items.
        costs: remaining cost of each waiting request.
    """

    def __init__(
        self, max_items: int, capacity: Capacity, shares: Sequence[DeviceShare] = ()
    ) -> None:
        self.items = 0
        self.cost = 0
        self.costs: dict[RequestContext, int] = {}
        self._max_items = max_items
        self._capacity = capacity
        self._shares = shares
        for share in shares:
            share.backlogs.append(self)

    @property
    def work_s(self) -> float:
        """Estimated seconds of work that waits or is in progress."""
        return self._capacity.cost_s * self.cost

    def queued_s(self, *, queries_only: bool) -> float:
        """Return the estimated seconds of work that waits or is in progress.

        Args:
            queries_only: whether to count queries only.
        """
        if not queries_only:
            return self.work_s
        costs = (owed for request, owed in self.costs.items() if request.is_query)
        return self._capacity.cost_s * sum(costs)

    def expected_wait_s(self, request: RequestContext, cost: int) -> float:
        """Return the expected seconds until this model by itself would answer a new request."""
        before = sum(
            min(owed, cost)
            for other, owed in self.costs.items()
            if other.is_query or not request.is_query
        )
        return (before + cost) * self._capacity.cost_s

    def _wait_s(self, own_s: float, *, is_query: bool) -> float:
        """Return the expected seconds until an answer, with the other models' work.

        Args:
            own_s: seconds until this model by itself would answer.
            is_query: whether the request is a query.
        """
        waits_s = (share.wait_s(own_s, is_query=is_query) for share in self._shares)
        return max(waits_s, default=own_s)

    def check(self, request: RequestContext, cost: int, items: int) -> None:
        """Check whether a request may wait.

        Raises:
            RequestTooLargeError: even an idle service could not answer the request in time.
            QueueFullError: the queue is full, or too long for an answer in time.
        """
        if items > self._max_items:
            raise RequestTooLargeError(
                f"{items} items; at most {self._max_items} may wait at a time", "items"
            )
        timeout_s, alone_s = self._capacity.timeout_s, cost * self._capacity.best_cost_s
        if timeout_s < alone_s < math.inf and self._capacity.can_judge(cost, items):
            fits = int(items * timeout_s / alone_s)
            advice = f"send at most {fits} at a time" if fits else "send a smaller one"
            raise RequestTooLargeError(
                f"computing {items} of this size takes at least {alone_s:.0f} s here, and answers "
                f"must be ready in {timeout_s:g} s: {advice}",
                "work",
            )
        if not self.items:
            return
        longest_s = _SHARE_OF_TIMEOUT * self._capacity.timeout_s
        models = max((len(share.device.shares) for share in self._shares), default=1)
        if models > 1 and self._capacity.can_judge(cost, items, LONGEST_BATCH_S):
            longest_s /= models  # all of them may become busy after the request is admitted
        own_s = self.work_s + cost * self._capacity.cost_s  # an upper bound, as turns are fair
        if own_s > longest_s:
            own_s = self.expected_wait_s(request, cost)
        is_full = self.items + items > self._max_items
        if own_s <= longest_s and not is_full:
            return
        wait_s = self._wait_s(own_s, is_query=request.is_query)
        if own_s > longest_s:
            # The queue shrinks with the end of a pass, which takes long for an image.
            too_much_s = max(own_s - longest_s, self._capacity.pass_s)
            raise QueueFullError(
                f"overloaded: an answer would take about {wait_s:.0f} s; send less at a time",
                retry_after_s=math.ceil(self._wait_s(too_much_s, is_query=request.is_query)),
            )
        raise QueueFullError(
            f"overloaded: {self.items} items wait already; send less at a time",
            retry_after_s=max(1, math.ceil(wait_s / 2)),
        )

    def charge(self, request: RequestContext, cost: int) -> None:
        """Add to a request's remaining cost; at 0 the request is removed."""
        self.cost += cost
        owed = self.costs.get(request, 0) + cost
        if owed:
            self.costs[request] = owed
        else:
            self.costs.pop(request, None)

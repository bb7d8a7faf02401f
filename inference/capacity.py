"""The capacity of a modality's devices: their measured rate, and the limits of a batch.

The scheduler reports every forward pass to a `Capacity`, and admission reads the same object. So
both see a limit that shrinks, as after a batch that exceeded the device's memory.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

# A batch may take this share of a request's timeout, so that health does not report it as hanging.
_LONGEST_BATCH = 0.25
# A request is rejected as too large only after this many recent forward passes of its size: one
# pass may have been slow, and a slow hour must not reject requests for ever.
_PASSES_TO_JUDGE = 2
_NOT_LONG_AGO_S = 600.0
_HALF_LIFE_S = 10.0  # half-life of the averaged rate, in seconds of work


@dataclass(frozen=True, slots=True)
class BatchStats:
    """Statistics of one forward pass; a batch that fails is split, and takes several passes.

    Attributes:
        size: number of items.
        run_s: seconds of computation.
        cost: cost of the items, in the tower's unit.
        failed: whether the pass raised an error.
        device_share: the part of the device that the pass had; less than 1 beside passes of other
            models.
    """

    size: int
    run_s: float
    cost: int = 0
    failed: bool = False
    device_share: float = 1.0


class Capacity:
    """Measures how many seconds a unit of cost takes, and holds the limits of a batch.

    Args:
        max_batch_size: maximum items of a batch.
        timeout_s: maximum seconds from a request to its answer.
        replicas: number of devices that compute in parallel.
        clock: function that returns the time in seconds.

    Attributes:
        max_batch_size: maximum items of a batch; it shrinks to fit the device's memory.
        max_batch_cost: maximum cost of a batch; a single item may cost more.
        timeout_s: maximum seconds from a request to its answer.
        cost_s: recent average of seconds per unit of cost; 0 before the first batch.
        best_cost_s: seconds per unit of cost in the fastest forward pass.
        pass_s: seconds between the ends of passes like the last one, on all devices together.
    """

    def __init__(
        self,
        max_batch_size: int,
        timeout_s: float,
        replicas: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.max_batch_size = max_batch_size
        self.max_batch_cost = math.inf
        self.timeout_s = timeout_s
        self._replicas = replicas
        self._clock = clock
        self._work_s = 0.0
        self._done = 0.0
        # Times of the last passes, by the magnitude of their cost.
        self._passes: dict[int, deque[float]] = {}
        self.cost_s = 0.0
        self.best_cost_s = math.inf
        self.pass_s = 0.0

    def observe(self, stats: BatchStats) -> None:
        """Update the rate with a forward pass; a failed pass is ignored."""
        if stats.failed:
            return
        # The replicas compute in parallel.
        run_s = self.pass_s = stats.run_s * stats.device_share / self._replicas
        faded = 0.5 ** (run_s / _HALF_LIFE_S)
        self._work_s = self._work_s * faded + run_s
        self._done = self._done * faded + stats.cost
        self.cost_s = self._work_s / self._done
        self.best_cost_s = min(self.best_cost_s, run_s / stats.cost)
        self.max_batch_cost = _LONGEST_BATCH * self.timeout_s / (self.cost_s * self._replicas)
        magnitude = stats.cost.bit_length()
        passes = self._passes.setdefault(magnitude, deque(maxlen=_PASSES_TO_JUDGE))
        passes.append(self._clock())

    def run_s(self, cost: float) -> float:
        """Return the expected seconds of a forward pass on one device."""
        return cost * self.cost_s * self._replicas

    def cost_within(self, seconds: float) -> float:
        """Return the cost of a batch that takes some seconds on one device."""
        return seconds / (self.cost_s * self._replicas) if self.cost_s else math.inf

    def can_judge(self, cost: int, items: int, longest_s: float = math.inf) -> bool:
        """Return whether recent forward passes were as large as the passes of this request.

        Small passes are mostly overhead: after two short texts a GPU seems a hundred times slower
        than it is. A request that is admitted without such passes provides them.

        Args:
            cost: the cost of the request.
            items: number of its items.
            longest_s: the time to which batches of several items are cut.
        """
        longest = max(cost / items, self.cost_within(longest_s))
        batch = cost * self.max_batch_size / items
        own = int(min(cost, batch, longest, self.max_batch_cost / 2))
        since_s = self._clock() - _NOT_LONG_AGO_S
        recent = [
            at_s
            for magnitude, seen in self._passes.items()
            if magnitude >= own.bit_length()
            for at_s in seen
            if at_s > since_s
        ]
        return len(recent) >= _PASSES_TO_JUDGE

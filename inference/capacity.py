"""What the devices of one modality can do: their measured rate, and the limits of a batch.

The scheduler owns it and tells it of every forward pass. Admission reads it. So a limit that
shrinks, as after a batch that the device's memory did not hold, shrinks for both.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

# A batch may take this share of the longest time of a request, so that health does not take it for
# a batch that hangs.
_LONGEST_BATCH = 0.25
# A request is judged by its own size only after so many forward passes as large as its own, not
# long ago: one may have been held up, and a slow hour of the machine shall not refuse for ever.
_PASSES_TO_JUDGE = 2
_NOT_LONG_AGO_S = 600.0
_HALF_LIFE_S = 10.0  # of what the rate remembers, in seconds of work


@dataclass(frozen=True, slots=True)
class BatchStats:
    """A forward pass, for metrics and logs; a batch that fails takes several.

    Attributes:
        size: number of items in it.
        run_s: seconds that it was computed.
        cost: of its items together, in the tower's unit.
        failed: whether it gave no rows.
    """

    size: int
    run_s: float
    cost: int = 0
    failed: bool = False


class Capacity:
    """Measures a rate, in seconds a unit of cost, and keeps the limits of a batch.

    Args:
        max_batch_size: most items in one batch.
        timeout_s: longest time from a request to its answer.
        replicas: devices that compute side by side.
        clock: tells the time in seconds.

    Attributes:
        max_batch_size: most items in one batch; it shrinks to what the device's memory holds.
        max_batch_cost: most that a batch may cost; one item alone may cost more.
        timeout_s: longest time from a request to its answer.
        cost_s: seconds a unit of cost, lately; 0 before the first batch.
        best_cost_s: the same of the best forward pass.
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
        # When the last passes were, by the magnitude of their cost.
        self._passes: dict[int, deque[float]] = {}
        self.cost_s = 0.0
        self.best_cost_s = math.inf

    def observe(self, stats: BatchStats) -> None:
        """Take note of a forward pass; one that failed tells nothing of the rate."""
        if stats.failed:
            return
        run_s = stats.run_s / self._replicas  # each computes side by side with the others
        faded = 0.5 ** (run_s / _HALF_LIFE_S)
        self._work_s = self._work_s * faded + run_s
        self._done = self._done * faded + stats.cost
        self.cost_s = self._work_s / self._done
        self.best_cost_s = min(self.best_cost_s, run_s / stats.cost)
        self.max_batch_cost = _LONGEST_BATCH * self.timeout_s / (self.cost_s * self._replicas)
        magnitude = stats.cost.bit_length()
        passes = self._passes.setdefault(magnitude, deque(maxlen=_PASSES_TO_JUDGE))
        passes.append(self._clock())

    def can_judge(self, cost: int, items: int) -> bool:
        """Tell whether passes were as large as a request's own: of small ones most is overhead.

        After two short texts a GPU seems a hundred times as slow as it is. A request that is let in
        for want of knowledge brings it.
        """
        own = int(min(cost, cost * self.max_batch_size / items, self.max_batch_cost / 2))
        since_s = self._clock() - _NOT_LONG_AGO_S
        recent = [
            at_s
            for magnitude, seen in self._passes.items()
            if magnitude >= own.bit_length()
            for at_s in seen
            if at_s > since_s
        ]
        return len(recent) >= _PASSES_TO_JUDGE

"""What a run has measured so far, and the ratios and medians that are read from it."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.bare import LoopResult
from bench.load import Measurement, percentile
from bench.service import Memory


@dataclass
class Figures:
    """The measurements of a run by name, one a round.

    A ratio is taken within each round and the median of the rounds counts, as machines drift.

    Attributes:
        loads: what clients saw, such as `images/16`.
        loops: the bare model, such as `bare/images`; per round a list of the runs in it.
        settings: what the loops ran with, and the open loop's rate.
    """

    loads: dict[str, list[Measurement]] = field(default_factory=dict)
    loops: dict[str, list[list[LoopResult]]] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)
    memory: Memory | None = None
    memory_with_larger: Memory | None = None
    start_s: list[float] = field(default_factory=list)
    import_s: list[float] = field(default_factory=list)

    def add_load(self, name: str, measurement: Measurement) -> None:
        """Note what the clients of a load saw in one round."""
        self.loads.setdefault(name, []).append(measurement)

    def add_loop(self, name: str, *runs: LoopResult) -> None:
        """Note the runs of a loop in one round."""
        self.loops.setdefault(name, []).append(list(runs))

    def rate(self, load: str) -> float:
        """Return the median rate of a load."""
        return _median([one.rate_per_s for one in self.loads.get(load, [])])

    def latency_ms(self, load: str, percent: float) -> float:
        """Return a percentile over all rounds of a load."""
        return percentile(
            [ms for one in self.loads.get(load, []) for ms in one.latencies_ms], percent
        )

    def errors(self, load: str) -> Counter[str]:
        """Count the errors of a load."""
        return sum((Counter(one.errors) for one in self.loads.get(load, [])), Counter())

    def client_cpu(self, load: str) -> float:
        """Return how many cores the clients of a load kept busy."""
        return _median([one.client_cpu for one in self.loads.get(load, [])])

    def loop_rate(self, loop: str) -> float:
        """Return the median rate of a loop."""
        return _median([_mean_rate(runs) for runs in self.loops.get(loop, [])])

    def loop_ms(self, loop: str) -> float:
        """Return the median time of a loop's batch."""
        return _median([run.median_ms for runs in self.loops.get(loop, []) for run in runs])

    def drift(self) -> float:
        """Return by how much the runs of one loop in one round differ at most, as a part."""
        rates = [[r.rate_per_s for r in runs] for rounds in self.loops.values() for runs in rounds]
        return max((max(one) / min(one) - 1 for one in rates), default=0.0)

    def loop_ratio(self, load: str, loop: str) -> float:
        """Return a load's rate as a part of a loop's."""
        pairs = zip(self.loads.get(load, []), self.loops.get(loop, []), strict=False)
        return _median([one.rate_per_s / _mean_rate(runs) for one, runs in pairs])

    def load_ratio(self, load: str, other: str) -> float:
        """Return a load's rate as a part of another's."""
        pairs = zip(self.loads.get(load, []), self.loads.get(other, []), strict=False)
        return _median([one.rate_per_s / two.rate_per_s for one, two in pairs])

    def median_ratio(self, load: str, loop: str) -> float:
        """Return a load's median latency as a multiple of the time of a loop's batch."""
        pairs = zip(self.loads.get(load, []), self.loops.get(loop, []), strict=False)
        return _median([percentile(one.latencies_ms, 50) / _mean_ms(runs) for one, runs in pairs])


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def _mean_rate(runs: Sequence[LoopResult]) -> float:
    return statistics.mean(run.rate_per_s for run in runs)


def _mean_ms(runs: Sequence[LoopResult]) -> float:
    return statistics.mean(run.median_ms for run in runs)

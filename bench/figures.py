"""The measurements of a run, with medians and ratios."""

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
    """The measurements of a run: by name, one for each round.

    Ratios are computed within a round, as machines drift; the result is their median.

    Attributes:
        loads: measurements of clients, such as `images/16`.
        loops: results of the bare model, such as `bare/images`; for each round a list of runs.
        settings: settings of the loops, and the open loop's rate.
    """

    loads: dict[str, list[Measurement]] = field(default_factory=dict)
    loops: dict[str, list[list[LoopResult]]] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)
    memory: Memory | None = None
    memory_with_larger: Memory | None = None
    start_s: list[float] = field(default_factory=list)
    import_s: list[float] = field(default_factory=list)

    def add_load(self, name: str, measurement: Measurement) -> None:
        """Add the measurement of a load in a round."""
        self.loads.setdefault(name, []).append(measurement)

    def add_loop(self, name: str, *runs: LoopResult) -> None:
        """Add the runs of a loop in a round."""
        self.loops.setdefault(name, []).append(list(runs))

    def rate(self, load: str) -> float:
        """Return the median rate of a load."""
        return _median([one.rate_per_s for one in self.loads.get(load, [])])

    def latency_ms(self, load: str, percent: float) -> float:
        """Return a percentile of the latencies of a load, over all rounds."""
        return percentile(
            [ms for one in self.loads.get(load, []) for ms in one.latencies_ms], percent
        )

    def errors(self, load: str) -> Counter[str]:
        """Count the errors of a load."""
        return sum((Counter(one.errors) for one in self.loads.get(load, [])), Counter())

    def client_cpu(self, load: str) -> float:
        """Return the number of cores that the clients of a load used."""
        return _median([one.client_cpu for one in self.loads.get(load, [])])

    def loop_rate(self, loop: str) -> float:
        """Return the median rate of a loop."""
        return _median([_mean_rate(runs) for runs in self.loops.get(loop, [])])

    def loop_ms(self, loop: str) -> float:
        """Return the median time of a loop's batch."""
        return _median([run.median_ms for runs in self.loops.get(loop, []) for run in runs])

    def drift(self) -> float:
        """Return the largest relative difference between runs of a loop in one round."""
        rates = [[r.rate_per_s for r in runs] for rounds in self.loops.values() for runs in rounds]
        return max((max(one) / min(one) - 1 for one in rates), default=0.0)

    def loop_ratio(self, load: str, loop: str) -> float:
        """Return the ratio of a load's rate to a loop's rate."""
        pairs = zip(self.loads.get(load, []), self.loops.get(loop, []), strict=False)
        return _median([one.rate_per_s / _mean_rate(runs) for one, runs in pairs])

    def load_ratio(self, load: str, other: str) -> float:
        """Return the ratio of a load's rate to another load's rate."""
        pairs = zip(self.loads.get(load, []), self.loads.get(other, []), strict=False)
        return _median([one.rate_per_s / two.rate_per_s for one, two in pairs])

    def median_ratio(self, load: str, loop: str) -> float:
        """Return the ratio of a load's median latency to the time of a loop's batch."""
        pairs = zip(self.loads.get(load, []), self.loops.get(loop, []), strict=False)
        return _median([percentile(one.latencies_ms, 50) / _mean_ms(runs) for one, runs in pairs])


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def _mean_rate(runs: Sequence[LoopResult]) -> float:
    return statistics.mean(run.rate_per_s for run in runs)


def _mean_ms(runs: Sequence[LoopResult]) -> float:
    return statistics.mean(run.median_ms for run in runs)

"""A histogram for Prometheus that costs a request less than the client's own."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Series:
    """The values of one series of a histogram."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # between the bounds, and beyond the last
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value in its bucket, and add it to the sum."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class Histogram(Collector):
    """A histogram like that of Prometheus's client, but only for values from one thread.

    The client's own histogram takes two locks and eight calls for each value. A request has up to
    eight values, so the client's histograms would take a seventh of the time of a cached text.

    Args:
        name: the name of the metric.
        meaning: the help text of the metric.
        bounds: upper bounds of the buckets, ascending.
        labels: the names of the labels.
    """

    def __init__(self, name: str, meaning: str, bounds: Sequence[float], *labels: str) -> None:
        self._name = name
        self._meaning = meaning
        self._bounds = bounds
        self._labels = labels
        self._series: dict[tuple[str, ...], Series] = {}

    def labels(self, *values: str) -> Series:
        """Return the series with these label values; from now on, every scrape includes it."""
        return self._series.setdefault(values, Series(self._bounds))

    def collect(self) -> Iterator[Metric]:
        """Yield the metric with all its series, for a scrape."""
        family = HistogramMetricFamily(self._name, self._meaning, labels=self._labels)
        bounds = (*self._bounds, math.inf)
        names = [floatToGoString(bound) for bound in bounds]  # type: ignore[no-untyped-call]
        for values, series in self._series.items():
            buckets = list(zip(names, map(float, accumulate(series.counts)), strict=True))
            family.add_metric(values, buckets, series.sum)
        yield family

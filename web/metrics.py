"""The metrics of `GET /metrics`, by Prometheus's client.

Events are counted when they happen; states, such as the length of a queue, are read at each scrape.
Each `Metrics` object has its own registry. This module knows no HTTP and no model.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from backends.model import GpuMemory, Modality, ModelInfo
from errors import REASONS, Reason
from inference.capacity import BatchStats
from inference.timings import STAGES, Stage
from vectorizer import Vectorizer
from web.record import MODALITIES, RequestRecord

if TYPE_CHECKING:
    from inference.store.shared_cache import SharedCache

# Upper bounds of buckets. A cached text takes less than the first; Weaviate times out at the last.
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50)
_ITEMS = tuple(2**power for power in range(11))

# The creation time of each series would double the lines.
disable_created_metrics()  # type: ignore[no-untyped-call]


class _Series:
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
    eight values, so it would take a seventh of the time of a cached text.

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
        self._series: dict[tuple[str, ...], _Series] = {}

    def labels(self, *values: str) -> _Series:
        """Return the series with these label values; from now on, every scrape includes it."""
        return self._series.setdefault(values, _Series(self._bounds))

    def collect(self) -> Iterator[Metric]:
        """Yield the metric with all its series, for a scrape."""
        family = HistogramMetricFamily(self._name, self._meaning, labels=self._labels)
        bounds = (*self._bounds, math.inf)
        names = [floatToGoString(bound) for bound in bounds]  # type: ignore[no-untyped-call]
        for values, series in self._series.items():
            buckets = list(zip(names, map(float, accumulate(series.counts)), strict=True))
            family.add_metric(values, buckets, series.sum)
        yield family


class _OfAnswer(NamedTuple):
    """The series that count the answers of one endpoint with one status.

    An answer with status 429 takes almost no time: counted together with vectors, it would make an
    overloaded service look fast.
    """

    answers: Counter
    duration: _Series
    stages: Mapping[Stage, _Series]


class _OfModel(NamedTuple):
    """The counters of the inputs and failures of one model."""

    items: Mapping[Modality, Counter]
    truncated: Counter
    no_tokens: Counter
    failures: Mapping[Reason, Counter]


class Metrics:
    """Counts events, and writes metrics for Prometheus.

    If models have names, their metrics have the label `model`. It is empty for requests that reach
    no model, such as requests without a token.

    Args:
        names: the names of the models; "" for a model without a name.
        loaded: the loaded models by name, whose states are read at each scrape.
        version: version of the service.
        queue_bytes: function that returns the bytes of all waiting requests.
        observer_failures: function that returns the number of failed observer calls.
    """

    def __init__(
        self,
        names: Sequence[str],
        loaded: Mapping[str, Vectorizer],
        version: str,
        queue_bytes: Callable[[], int],
        observer_failures: Callable[[], int],
    ) -> None:
        self._have_names = "" not in names
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_States(names, loaded, version, queue_bytes, observer_failures))
        requests = self._counter("requests", "Answers of the interfaces.", "endpoint", "code")
        items = self._counter("items", "Texts, images and pairs that came in.", "modality")
        truncated = self._counter("truncated_texts", "Texts and pairs longer than the model reads.")
        no_tokens = self._counter(
            "texts_without_tokens", "Texts of which the model knows no token: vectors of zeros."
        )
        failures = self._counter("request_failures", "Requests without vectors, and why.", "reason")
        self._of_model = {
            model: _OfModel(
                {modality: _child(items, *own, modality) for modality in MODALITIES},
                _child(truncated, *own),
                _child(no_tokens, *own),
                {reason: _child(failures, *own, reason) for reason in REASONS},
            )
            for model in dict.fromkeys([*names, ""])
            for own in [_label(model, self._have_names)]
        }
        durations = self._histogram(
            "request_duration_seconds",
            "From a request's arrival to its answer.",
            _SECONDS,
            "endpoint",
            "status_class",
        )
        stages = self._histogram(
            "stage_duration_seconds",
            "What a request spent in each stage that it passed; of several items, the slowest's.",
            _SECONDS,
            "stage",
            "status_class",
        )

        def series_of(model: str, endpoint: str, status: int) -> _OfAnswer:
            own, status_class = _label(model, self._have_names), f"{status // 100}xx"
            return _OfAnswer(
                requests.labels(*own, endpoint, str(status)),
                durations.labels(*own, endpoint, status_class),
                {stage: stages.labels(*own, stage, status_class) for stage in STAGES},
            )

        self._series_of = cache(series_of)
        self._reads: Histogram | None = None
        sizes = self._histogram(
            "batch_items", "Items in one forward pass of the model.", _ITEMS, "modality"
        )
        seconds = self._histogram(
            "batch_duration_seconds", "How long a forward pass took.", _SECONDS, "modality"
        )

        def series_of_batches(model: str, modality: str) -> tuple[_Series, _Series]:
            values = (*_label(model, self._have_names), modality)
            return sizes.labels(*values), seconds.labels(*values)

        self._series_of_batches = cache(series_of_batches)

    def observe_model(self, model: str, vectorizer: Vectorizer) -> None:
        """Observe the batches of a model that was loaded, and the reads of its shared store."""
        vectorizer.observe_batches(partial(self.observe_batch, model))
        if vectorizer.shared:
            self._reads = self._reads or self._histogram(
                "vector_store_read_duration_seconds",
                "How long a read of the store took, of all inputs that waited for it.",
                _SECONDS,
            )
            own_reads = self._reads.labels(*_label(model, self._have_names))
            vectorizer.shared.reads.add(own_reads.observe)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        labels = (*_label("model", self._have_names), *labels)
        return Counter(f"inference_{name}", meaning, labels, registry=self._registry)

    def _histogram(
        self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        labels = (*_label("model", self._have_names), *labels)
        histogram = Histogram(f"inference_{name}", meaning, buckets, *labels)
        self._registry.register(histogram)
        return histogram

    def observe_request(self, record: RequestRecord) -> None:
        """Count an answered request."""
        series = self._series_of(record.model, record.endpoint, record.status)
        own = self._of_model[record.model]
        series.answers.inc()
        series.duration.observe(record.total_s)
        for stage, seconds in record.stages_s.items():
            series.stages[stage].observe(seconds)
        for modality, count in record.items.items():
            own.items[modality].inc(count)
        if record.truncated:
            own.truncated.inc(len(record.truncated))
        if record.no_tokens:
            own.no_tokens.inc(len(record.no_tokens))
        if record.refused:
            own.failures[record.refused].inc()

    def observe_batch(self, model: str, modality: str, stats: BatchStats) -> None:
        """Count a forward pass."""
        sizes, seconds = self._series_of_batches(model, modality)
        sizes.observe(stats.size)
        seconds.observe(stats.run_s)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics in the format of an `Accept` header, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _States(Collector):
    """The metrics that are read at each scrape."""

    def __init__(
        self,
        names: Sequence[str],
        loaded: Mapping[str, Vectorizer],
        version: str,
        queue_bytes: Callable[[], int],
        observer_failures: Callable[[], int],
    ) -> None:
        self._names = names
        self._loaded = loaded
        self._version = version
        self._queue_bytes = queue_bytes
        self._observer_failures = observer_failures

    def collect(self) -> Iterator[Metric]:
        vectorizers = self._loaded.values()
        yield InfoMetricFamily("inference_build", "The service.", {"version": self._version})
        loaded = InfoMetricFamily("inference_model", "What is loaded.")
        for vectorizer in vectorizers:
            loaded.add_metric([], _model_labels(vectorizer.info))
        yield loaded
        yield self._by_model(
            GaugeMetricFamily,
            "inference_queue_items",
            "Items that wait, are decoded or are computed.",
            lambda model: model.queue_items,
            "modality",
        )
        yield self._by_model(
            GaugeMetricFamily,
            "inference_queue_seconds",
            "Seconds of work that wait or are in progress.",
            lambda model: model.queue_seconds,
            "modality",
        )
        yield GaugeMetricFamily(
            "inference_queue_bytes",
            "Bodies of all requests that are read, wait or are computed.",
            self._queue_bytes(),
        )
        yield CounterMetricFamily(
            "inference_observer_failures",
            "Failures of what counts and logs; the log has each. They change no answer.",
            self._observer_failures(),
        )
        yield self._by_model(
            CounterMetricFamily,
            "inference_cache_lookups",
            "Inputs: hit (known), shared (being computed for another), miss (computed).",
            _lookups,
            "result",
        )
        # All models share them.
        remembered = max((one.cache_stats.size for one in vectorizers), default=0)
        yield GaugeMetricFamily("inference_cache_vectors", "Vectors remembered.", remembered)
        if any(vectorizer.shared for vectorizer in vectorizers):
            yield from self._store()
        yield from _gpu({one.info.device: one.gpu_memory for one in vectorizers})

    def _store(self) -> Iterator[Metric]:
        """Yield the metrics of the shared store: its lookups, errors, writes and state."""
        yield self._by_model(
            CounterMetricFamily,
            "inference_vector_store_lookups",
            "Inputs that memory did not know: hit (the store did), miss.",
            _of_store(lambda store: {"hit": store.stats.hits, "miss": store.stats.misses}),
            "result",
        )
        yield self._by_model(
            CounterMetricFamily,
            "inference_vector_store_errors",
            "Failures that cost no more than the store's help: error, timeout (of a lookup), "
            "invalid (no vector of this service and secret), dropped (not kept, as too many waited "
            "to be).",
            _of_store(
                lambda store: {
                    "error": store.stats.errors,
                    "timeout": store.stats.timeouts,
                    "invalid": store.stats.invalid,
                    "dropped": store.stats.dropped,
                }
            ),
            "reason",
        )
        yield self._by_model(
            CounterMetricFamily,
            "inference_vector_store_written",
            "Vectors handed over to the store.",
            _of_store(lambda store: {"": store.stats.written}),
        )
        yield self._by_model(
            CounterMetricFamily,
            "inference_vector_store_evictions",
            "Entries deleted to make room (Redis: server's).",
            _of_store(lambda store: {"": store.stats.usage.evictions}),
        )
        yield self._by_model(
            GaugeMetricFamily,
            "inference_vector_store_connected",
            "Whether the store answers.",
            _of_store(lambda store: {"": float(store.is_connected)}),
        )
        yield self._by_model(
            GaugeMetricFamily,
            "inference_vector_store_bytes",
            "That the store takes (Redis: the server's memory).",
            _of_store(lambda store: {"": store.stats.usage.nbytes}),
        )

    def _by_model(
        self,
        kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
        name: str,
        meaning: str,
        read: Callable[[Vectorizer], Mapping[str, float]],
        *label: str,
    ) -> Metric:
        """Return a metric with the values of each model.

        Args:
            kind: the type of the metric.
            name: its name.
            meaning: its help text.
            read: function that returns a model's values by the value of the label, or by "".
            label: its label beside `model`; none if each model has one value.
        """
        have_names = "" not in self._names
        family = kind(name, meaning, labels=[*_label("model", have_names), *label])
        for model, vectorizer in self._loaded.items():
            for value, count in read(vectorizer).items():
                family.add_metric([*_label(model, have_names), *([value] if label else [])], count)
        return family


def _label(model: str, have_names: bool) -> tuple[str, ...]:
    """Return the name or the value of the label `model` if models have names, else nothing."""
    return (model,) if have_names else ()


def _child(counter: Counter, *values: str) -> Counter:
    """Return the series of a counter with these label values; a counter may have no labels."""
    return counter.labels(*values) if values else counter


def _lookups(model: Vectorizer) -> Mapping[str, float]:
    stats = model.cache_stats
    return {"hit": stats.hits, "shared": stats.shared, "miss": stats.misses}


def _of_store(
    read: Callable[[SharedCache], Mapping[str, float]],
) -> Callable[[Vectorizer], Mapping[str, float]]:
    """Return a function that reads a model's shared store; nothing if it has none."""
    return lambda model: read(model.shared) if model.shared else {}


def _model_labels(info: ModelInfo) -> dict[str, str]:
    return {
        "model": info.name,
        "revision": info.revision,
        "family": info.family,
        "dimensions": str(info.dimensions),
        "parameters": str(info.parameters),
        "runtime": info.runtime,
        "device": info.device,
        "precision": info.precision,
        "text_mode": info.text_mode,
        "vector_space": info.vector_space,
    }


def _gpu(by_device: Mapping[str, GpuMemory | None]) -> Iterator[Metric]:
    memories = [memory for memory in by_device.values() if memory]
    if not memories:
        return
    memory = sum(memories[1:], memories[0])
    for name, meaning, value in (
        ("allocated", "GPU memory that holds this process's tensors.", memory.allocated),
        ("reserved", "GPU memory that this process keeps for tensors.", memory.reserved),
        ("total", "Memory of the GPU.", memory.total),
    ):
        yield GaugeMetricFamily(f"inference_gpu_memory_{name}_bytes", meaning, value)

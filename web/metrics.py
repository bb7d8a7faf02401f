"""The metrics of `GET /metrics`, by Prometheus's client.

Events are counted when they happen; `states` are read at each scrape.
Each `Metrics` object has its own registry. This module knows no HTTP and no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from backends.model import Modality
from errors import REASONS, Reason
from inference.capacity import BatchStats
from inference.timings import STAGES, Stage
from on_demand import UNLOADINGS, Unloading
from vectorizer import Vectorizer
from web.histogram import Histogram, Series
from web.record import MODALITIES, RequestRecord
from web.states import States, model_label

# Upper bounds of buckets. A cached text takes less than the first; Weaviate times out at the last.
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50)
_LOAD_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)
_ITEMS = tuple(2**power for power in range(11))

# Otherwise the client writes a `_created` line for each series as well.
disable_created_metrics()  # type: ignore[no-untyped-call]


class _OfAnswer(NamedTuple):
    """The series that count the answers of one endpoint with one status.

    An answer with status 429 takes almost no time. In one series with vectors it would make an
    overloaded service look fast.
    """

    answers: Counter
    duration: Series
    stages: Mapping[Stage, Series]


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
        states: the metrics that are read at each scrape.
    """

    def __init__(self, names: Sequence[str], states: States) -> None:
        self._have_names = "" not in names
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(states)
        requests = self.counter("requests", "Answers of the interfaces.", "endpoint", "code")
        items = self.counter("items", "Texts, images and pairs that came in.", "modality")
        truncated = self.counter("truncated_texts", "Texts and pairs longer than the model reads.")
        no_tokens = self.counter(
            "texts_without_tokens",
            "Texts without a token that the model knows; their vectors are zeros.",
        )
        failures = self.counter("request_failures", "Requests without vectors, and why.", "reason")
        self._of_model = {
            model: _OfModel(
                {modality: _child(items, *own, modality) for modality in MODALITIES},
                _child(truncated, *own),
                _child(no_tokens, *own),
                {reason: _child(failures, *own, reason) for reason in REASONS},
            )
            for model in dict.fromkeys([*names, ""])
            for own in [model_label(model, self._have_names)]
        }
        durations = self.histogram(
            "request_duration_seconds",
            "From a request's arrival to its answer.",
            _SECONDS,
            "endpoint",
            "status_class",
        )
        stages = self.histogram(
            "stage_duration_seconds",
            "Seconds that a request spent in each stage; of several items, the slowest one's.",
            _SECONDS,
            "stage",
            "status_class",
        )

        def series_of(model: str, endpoint: str, status: int) -> _OfAnswer:
            own, status_class = model_label(model, self._have_names), f"{status // 100}xx"
            return _OfAnswer(
                requests.labels(*own, endpoint, str(status)),
                durations.labels(*own, endpoint, status_class),
                {stage: stages.labels(*own, stage, status_class) for stage in STAGES},
            )

        self._series_of = cache(series_of)
        self._reads: Histogram | None = None
        sizes = self.histogram(
            "batch_items", "Items in one forward pass of the model.", _ITEMS, "modality"
        )
        seconds = self.histogram(
            "batch_duration_seconds", "How long a forward pass took.", _SECONDS, "modality"
        )

        def series_of_batches(model: str, modality: str) -> tuple[Series, Series]:
            values = (*model_label(model, self._have_names), modality)
            return sizes.labels(*values), seconds.labels(*values)

        self._series_of_batches = cache(series_of_batches)

    def observe_model(self, model: str, vectorizer: Vectorizer) -> None:
        """Observe the batches of a model that was loaded, and the reads of its shared store."""
        vectorizer.observe_batches(partial(self.observe_batch, model))
        if vectorizer.shared:
            self._reads = self._reads or self.histogram(
                "vector_store_read_duration_seconds",
                "Duration of one read of the store, for all inputs that wait.",
                _SECONDS,
            )
            own_reads = self._reads.labels(*model_label(model, self._have_names))
            vectorizer.shared.reads.add(own_reads.observe)

    def counter(self, name: str, meaning: str, *labels: str) -> Counter:
        """Return a new counter, with these labels after the model's."""
        labels = (*model_label("model", self._have_names), *labels)
        return Counter(f"inference_{name}", meaning, labels, registry=self._registry)

    def histogram(
        self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        """Return a new histogram, with these labels after the model's."""
        labels = (*model_label("model", self._have_names), *labels)
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


class LoadMetrics:
    """Counts the loads and unloads of models that are loaded on demand.

    Args:
        names: the names of the models.
        metrics: the metrics of the service, whose models have names.
    """

    def __init__(self, names: Sequence[str], metrics: Metrics) -> None:
        loads = metrics.counter(
            "model_loads", "Loads of models on demand: loaded or failed.", "result"
        )
        unloads = metrics.counter(
            "model_unloads",
            "Models unloaded: idle (MODELS_IDLE_S), memory (for another), or died.",
            "reason",
        )
        seconds = metrics.histogram(
            "model_load_duration_seconds", "How long a load took that succeeded.", _LOAD_SECONDS
        )
        self._loaded = {name: loads.labels(name, "loaded") for name in names}
        self._failed = {name: loads.labels(name, "failed") for name in names}
        self._seconds = {name: seconds.labels(name) for name in names}
        self._unloads = {
            (name, why): unloads.labels(name, why) for name in names for why in UNLOADINGS
        }

    def loaded(self, model: str, seconds: float) -> None:
        """Count a load that succeeded."""
        self._loaded[model].inc()
        self._seconds[model].observe(seconds)

    def failed(self, model: str) -> None:
        """Count a load that failed."""
        self._failed[model].inc()

    def unloaded(self, model: str, why: Unloading) -> None:
        """Count a model that was unloaded."""
        self._unloads[model, why].inc()


def _child(counter: Counter, *values: str) -> Counter:
    """Return the series of a counter with these label values; a counter may have no labels."""
    return counter.labels(*values) if values else counter

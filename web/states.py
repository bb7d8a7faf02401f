"""The states of `GET /metrics`, such as the length of a queue, which are read at each scrape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from backends.model import GpuMemory, ModelInfo
from inference.observers import Observers
from vectorizer import Vectorizer
from web.body import BodyReader
from web.record import RequestRecord

if TYPE_CHECKING:
    from inference.store.shared_cache import SharedCache


def model_label(model: str, have_names: bool) -> tuple[str, ...]:
    """Return `(model,)` if models have names, else `()`, for the labels of a metric.

    Args:
        model: the word "model" among the names of labels, a model's name among their values.
        have_names: whether the models have names.
    """
    return (model,) if have_names else ()


class States(Collector):
    """The metrics that are read at each scrape.

    Args:
        names: the names of all models; "" for a model without a name.
        loaded: the loaded models by name.
        version: the version of the service.
        body_reader: counts the bytes of the bodies of all unfinished requests.
        requests: the observers of requests, which count their failures.
    """

    def __init__(
        self,
        names: Sequence[str],
        loaded: Mapping[str, Vectorizer],
        version: str,
        body_reader: BodyReader,
        requests: Observers[[RequestRecord]],
    ) -> None:
        self._names = names
        self._loaded = loaded
        self._version = version
        self._body_reader = body_reader
        self._requests = requests

    def collect(self) -> Iterator[Metric]:
        """Yield all states, for a scrape."""
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
            {name: model.queue_items for name, model in self._loaded.items()},
            "modality",
        )
        yield self._by_model(
            GaugeMetricFamily,
            "inference_queue_seconds",
            "Seconds of work that wait or are in progress.",
            {name: model.queue_seconds for name, model in self._loaded.items()},
            "modality",
        )
        yield GaugeMetricFamily(
            "inference_queue_bytes",
            "Bodies of all requests that are read, wait or are computed.",
            self._body_reader.held_bytes,
        )
        yield CounterMetricFamily(
            "inference_observer_failures",
            "Errors while counting or logging; each is logged, and no answer is affected.",
            self._requests.failures + sum(model.observer_failures for model in vectorizers),
        )
        caches = {name: model.cache_stats for name, model in self._loaded.items()}
        yield self._by_model(
            CounterMetricFamily,
            "inference_cache_lookups",
            "Inputs: hit (known), shared (being computed for another), miss (computed).",
            {
                name: {"hit": cache.hits, "shared": cache.shared, "miss": cache.misses}
                for name, cache in caches.items()
            },
            "result",
        )
        # All models share the remembered vectors.
        remembered = max((cache.size for cache in caches.values()), default=0)
        yield GaugeMetricFamily("inference_cache_vectors", "Vectors remembered.", remembered)
        if stores := {name: model.shared for name, model in self._loaded.items() if model.shared}:
            yield from self._of_stores(stores)
        yield from _gpu({one.info.device: one.gpu_memory for one in vectorizers})

    def _of_stores(self, stores: Mapping[str, SharedCache]) -> Iterator[Metric]:
        """Yield the metrics of each model's shared store: lookups, errors, writes and state."""
        stats = {name: store.stats for name, store in stores.items()}
        yield self._by_model(
            CounterMetricFamily,
            "inference_vector_store_lookups",
            "Inputs not cached in memory: hit (found in the store), miss (not found).",
            {name: {"hit": one.hits, "miss": one.misses} for name, one in stats.items()},
            "result",
        )
        yield self._by_model(
            CounterMetricFamily,
            "inference_vector_store_errors",
            "Failures of the store; no request fails by them: error, timeout (of a lookup), "
            "invalid (wrong format or digest), dropped (not written, as the write queue was full).",
            {
                name: {
                    "error": one.errors,
                    "timeout": one.timeouts,
                    "invalid": one.invalid,
                    "dropped": one.dropped,
                }
                for name, one in stats.items()
            },
            "reason",
        )
        yield self._by_model(
            CounterMetricFamily,
            "inference_vector_store_written",
            "Vectors handed over to the store.",
            {name: {"": one.written} for name, one in stats.items()},
        )
        yield self._by_model(
            CounterMetricFamily,
            "inference_vector_store_evictions",
            "Entries deleted to make room (Redis: by the whole server).",
            {name: {"": one.usage.evictions} for name, one in stats.items()},
        )
        yield self._by_model(
            GaugeMetricFamily,
            "inference_vector_store_connected",
            "Whether the store answers.",
            {name: {"": float(store.is_connected)} for name, store in stores.items()},
        )
        yield self._by_model(
            GaugeMetricFamily,
            "inference_vector_store_bytes",
            "Bytes that the store uses (Redis: memory of the whole server).",
            {name: {"": one.usage.nbytes} for name, one in stats.items()},
        )

    def _by_model(
        self,
        kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
        name: str,
        meaning: str,
        values: Mapping[str, Mapping[str, float]],
        *label: str,
    ) -> Metric:
        """Return a metric with a sample for each model, and for each value of its label.

        Args:
            kind: the type of the metric.
            name: its name.
            meaning: its help text.
            values: the values of each model, by the value of the label, or by "".
            label: its label beside `model`; none if each model has one value.
        """
        have_names = "" not in self._names
        family = kind(name, meaning, labels=[*model_label("model", have_names), *label])
        for model, counts in values.items():
            for value, count in counts.items():
                family.add_metric(
                    [*model_label(model, have_names), *([value] if label else [])], count
                )
        return family


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

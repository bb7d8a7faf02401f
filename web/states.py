"""The states of `GET /metrics`, such as the length of a queue, which are read at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from backends.model import GpuMemory, ModelInfo
from vectorizer import Vectorizer

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
        queue_bytes: function that returns the bytes of the bodies of all unfinished requests.
        observer_failures: function that returns the number of failed observers' calls.
    """

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
            "Errors while counting or logging; each is logged, and no answer is affected.",
            self._observer_failures(),
        )
        yield self._by_model(
            CounterMetricFamily,
            "inference_cache_lookups",
            "Inputs: hit (known), shared (being computed for another), miss (computed).",
            _lookups,
            "result",
        )
        # All models share the remembered vectors.
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
            "Inputs not cached in memory: hit (found in the store), miss (not found).",
            _of_store(lambda store: {"hit": store.stats.hits, "miss": store.stats.misses}),
            "result",
        )
        yield self._by_model(
            CounterMetricFamily,
            "inference_vector_store_errors",
            "Failures of the store; no request fails by them: error, timeout (of a lookup), "
            "invalid (wrong format or digest), dropped (not written, as the write queue was full).",
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
            "Entries deleted to make room (Redis: by the whole server).",
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
            "Bytes that the store uses (Redis: memory of the whole server).",
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
        """Return a metric with a sample for each model, and for each value of its label.

        Args:
            kind: the type of the metric.
            name: its name.
            meaning: its help text.
            read: function that returns a model's values by the value of the label, or by "".
            label: its label beside `model`; none if each model has one value.
        """
        have_names = "" not in self._names
        family = kind(name, meaning, labels=[*model_label("model", have_names), *label])
        for model, vectorizer in self._loaded.items():
            for value, count in read(vectorizer).items():
                family.add_metric(
                    [*model_label(model, have_names), *([value] if label else [])], count
                )
        return family


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

"""The use case: embeds the inputs of a request, in their order.

    inputs -> read -> cache: vectors, items in flight, misses -> admission of all misses, or none
                                                                  |
    vectors <- postprocess <- cache <- collect <- wait <- pipelines: preprocess, batch, compute

Each modality has a pipeline, so that the text of a search does not wait behind images of an import.
This module knows no wire format and no model library.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from backends.load import load_model
from backends.model import EmbeddingResult, GpuMemory, Modality, Model, ModelInfo, RuntimeName
from config import Settings
from errors import (
    DeviceUnavailableError,
    InvalidInputError,
    UnhealthyError,
    describe_error,
)
from inference.admission import Admission, Permit
from inference.capacity import Capacity
from inference.device import Devices
from inference.health import RELOAD, RESTART, Health
from inference.images.decoder import ImageDecoder, ImageLimits
from inference.images.preprocess import ImagePreprocessor
from inference.pipeline import Pipeline
from inference.preprocess import PairPreprocessor, Preprocessor, TextPreprocessor
from inference.preprocess_limiter import PreprocessLimiter
from inference.request import EmbedInput, RequestContext
from inference.scheduler import BatchHook, Scheduler
from inference.tasks import all_or_first_error, background
from inference.timings import ItemTimes
from inference.vector_cache import CacheResult, CacheStats, Remembered, RowMemory, VectorCache
from inference.work import QueueEntry, WorkItem, request_error
from inference.worker_pool import WorkerPool
from machine import freeze_gc, give_freed_memory_back, usable_cores

if TYPE_CHECKING:
    from inference.store.address import Address
    from inference.store.shared_cache import SharedCache

logger = logging.getLogger(__name__)

# Bytes of cached sentence rows for each vector of VECTOR_CACHE_SIZE.
_ROW_BYTES_PER_VECTOR = 1_000
# Sizes of warm-up batches. OpenVINO's first pass prepares all sizes; a second pass would take a
# tenth of the startup time.
_WARM_UP: dict[RuntimeName, Sequence[int]] = {"openvino": (1,), "torch": (1, 2), "numpy": (1,)}
# The name of each modality's thread pool.
_POOLS: dict[Modality, str] = {"text": "tokenize", "image": "decode", "pair": "tokenize"}


@dataclass(frozen=True)
class Resources:
    """The resources that all models of a process share, so that there is one budget of each.

    Attributes:
        devices: the devices, on which the batches of all models take turns.
        vectors: remembered vectors.
        rows: remembered rows of sentences.
        loader: the thread that loads a model on demand, while others are asked; None at start, when
            the event loop may wait.
    """

    devices: Devices
    vectors: Remembered
    rows: RowMemory
    loader: WorkerPool | None = None

    @classmethod
    def of(cls, settings: Settings) -> Resources:
        """Return the resources that the settings allow."""
        rows = RowMemory(_ROW_BYTES_PER_VECTOR * settings.vector_cache_size)
        return cls(Devices(), OrderedDict(), rows)


class Vectorizer:
    """Embeds texts and images, or scores pairs, for many requests at once.

    Args:
        replicas: the loaded model on each device.
        settings: the settings, for the limits.
        shared: the second level of the cache; None without VECTOR_CACHE_URL.
        resources: the resources that it shares with other models; None for its own.

    Attributes:
        info: facts about the model.
        settings: the settings.
        shared: the second level of the cache, or None.
        modalities: modalities of the model.
        health: health of the service.
        in_flight: number of requests in flight, if the model was loaded on demand.
        used_at_s: time of the last such request, by `time.perf_counter`.
    """

    def __init__(
        self,
        replicas: Sequence[Model],
        settings: Settings,
        shared: SharedCache | None = None,
        resources: Resources | None = None,
    ) -> None:
        names = [replica.info.device for replica in replicas]
        self.info = replace(replicas[0].info, device=", ".join(names))
        self._resources = resources or Resources.of(settings)
        devices = self._resources.devices
        self._shares = {name: devices.share(name) for name in dict.fromkeys(names)}
        remedy = RELOAD if self._resources.loader else RESTART
        self.health = Health(settings.request_timeout_s, remedy=remedy)
        self._replicas = replicas
        self.settings = settings
        self.shared = shared
        self._cache = VectorCache(
            settings.vector_cache_size, shared.add if shared else None, self._resources.vectors
        )
        self._pipelines = {modality: self._pipeline(modality) for modality in replicas[0].towers}
        self.modalities = tuple(self._pipelines)
        self.in_flight = 0
        self.used_at_s = time.perf_counter()
        self._trial: asyncio.Task[None] | None = None

    def _pipeline(self, modality: Modality) -> Pipeline:
        settings, threads, pool = self.settings, usable_cores(), _POOLS[modality]
        towers = [replica.towers[modality] for replica in self._replicas]
        processor = towers[0].processor
        preprocessor: Preprocessor
        match modality:
            case "text":
                preprocessor = TextPreprocessor(processor, settings.max_text_chars)
            case "pair":
                preprocessor = PairPreprocessor(processor, settings.max_text_chars)
            case "image":
                limits = _image_limits(settings, self.info.image_px)
                preprocessor = ImagePreprocessor(processor, limits)
        capacity = Capacity(settings.max_batch_size, settings.request_timeout_s, len(towers))
        shares = [self._shares[replica.info.device] for replica in self._replicas]
        return Pipeline(
            self.info.vector_space or self.info.score_space,
            towers[0],
            preprocessor,
            WorkerPool(threads, pool, self.health.monitor(pool)),
            Admission(settings.max_queue_items, capacity, list(self._shares.values())),
            Scheduler(modality, towers, shares, self.health, capacity),
            PreprocessLimiter(2 * threads, capacity),
            self._resources.rows,
        )

    @property
    def cache_stats(self) -> CacheStats:
        """Counts of cache lookups."""
        return self._cache.stats

    @property
    def gpu_memory(self) -> GpuMemory | None:
        """Current memory of all GPUs together; None without a GPU."""
        memories = [memory for replica in self._replicas if (memory := replica.gpu_memory())]
        return sum(memories[1:], memories[0]) if memories else None

    @property
    def queue_items(self) -> Mapping[str, int]:
        """Number of unfinished inputs by modality: waiting, preprocessed or computed."""
        return {name: pipeline.admission.items for name, pipeline in self._pipelines.items()}

    @property
    def queue_seconds(self) -> Mapping[str, float]:
        """Estimated seconds of unfinished work by modality."""
        return {name: pipeline.admission.work_s for name, pipeline in self._pipelines.items()}

    @property
    def observer_failures(self) -> int:
        """Number of failed calls of the observers that receive batches."""
        return sum(pipeline.scheduler.observers.failures for pipeline in self._pipelines.values())

    def observe_batches(self, hook: BatchHook) -> None:
        """Call `hook` with the modality and the statistics of every forward pass."""
        for modality, pipeline in self._pipelines.items():
            pipeline.scheduler.observers.add(partial(hook, modality))

    async def embed(
        self, inputs: Sequence[EmbedInput], request: RequestContext | None = None
    ) -> list[EmbeddingResult]:
        """Embed the inputs of a request, in order.

        Args:
            inputs: inputs of the model's modalities.
            request: the request's context; its priority and timestamps are set.

        Raises:
            InvalidInputError: an input is invalid; the message names it.
            RequestTooLargeError: one input, or all inputs together, are too large.
            QueueFullError: the queue holds too much work already.
            BackendError: the model failed.
            UnhealthyError: the model fails until the process is restarted.
        """
        if fault := self.health.dead:
            raise UnhealthyError(fault)
        if not inputs:
            return []
        request = request or RequestContext()
        request.is_query = any(embed_input.is_query for embed_input in inputs)
        request.times.embed_began_s = time.perf_counter()
        items = await self._read(inputs, request)
        cached = self._cache.get(
            [item for item in items if not self._pipelines[item.modality].is_lookup]
        )
        if self.shared and cached.misses:
            found = await self.shared.find(list(cached.misses))
            self._cache.take(cached, found)
        for item in items:
            if item.key in cached.vectors or item.key in cached.in_flight:
                item.content = None  # frees the megabytes of an image
        computed = cached.in_flight | cached.misses
        if computed:
            await self._compute(cached, request)
            for embed_input, item in zip(inputs, items, strict=True):
                if (work := computed.get(item.key)) and work.error:
                    raise request_error(work.error, embed_input.name) from work.error
        answers: list[EmbeddingResult] = []
        for embed_input, item in zip(inputs, items, strict=True):
            work = computed.get(item.key)
            result = work.result if work else cached.vectors.get(item.key)
            if result is None:
                try:
                    result = await self._pipelines[item.modality].embed_by_lookup(item)
                except InvalidInputError as error:
                    raise error.at(embed_input.name) from error
            answers.append(embed_input.postprocess(result))
        request.times.embed_ended_s = time.perf_counter()
        return answers

    async def _read(self, inputs: Sequence[EmbedInput], request: RequestContext) -> list[WorkItem]:
        items = []
        for embed_input in inputs:
            await request.give_way()
            times = ItemTimes()
            request.times.items.append(times)
            pipeline = self._pipelines.get(embed_input.modality)
            if pipeline is None:
                known = " and ".join(f"{name}s" for name in self._pipelines)
                raise InvalidInputError(
                    f"this model ({self.info.family}) has no tower for {embed_input.modality}s; "
                    f"it embeds {known} only",
                    "modality",
                ).at(embed_input.name)
            try:
                items.append(await pipeline.read(embed_input, times))
            except InvalidInputError as error:
                raise error.at(embed_input.name) from error
        return items

    async def _compute(self, cached: CacheResult, request: RequestContext) -> None:
        """Compute the misses, and wait for them and for the items in flight.

        Raises:
            RequestTooLargeError: the misses are too much even for an idle service.
            QueueFullError: the queue holds too much work already.
        """
        self._admit(list(cached.misses.values()), request)
        work = [*cached.in_flight.values(), *cached.misses.values()]
        for item in work:
            item.join(request)
        for item in cached.misses.values():
            self._cache.add(item)
        unstarted = deque(cached.misses.values())
        # Entries are submitted by the batch: of those that come one by one, the scheduler would
        # compute the first few in a small batch.
        unsubmitted: dict[Pipeline, list[QueueEntry]] = {}
        try:
            while unstarted:
                await request.give_way()
                item = unstarted.popleft()
                pipeline = self._pipelines[item.modality]
                entries = unsubmitted.setdefault(pipeline, [])
                entries.extend(pipeline.start(item))
                if len(entries) >= self.settings.max_batch_size:
                    pipeline.submit(unsubmitted.pop(pipeline))
            _submit_all(unsubmitted)
            if request.pending and not any(item.error for item in work):
                await request.wait()
        finally:  # results are cached, also if the request was cancelled
            for item in work:
                if not item.is_done:
                    item.leave(request)
                elif item.has_rows and item.result is None:
                    self._pipelines[item.modality].collect(item)
                self._cache.settle(item)
            for item in unstarted:
                if not item.is_done:  # this request was cancelled, but another waits
                    pipeline = self._pipelines[item.modality]
                    unsubmitted.setdefault(pipeline, []).extend(pipeline.start(item))
            _submit_all(unsubmitted)

    def _admit(self, misses: Sequence[WorkItem], request: RequestContext) -> None:
        """Admit all misses, or none."""
        costs: dict[Modality, list[int]] = {}
        for item in misses:
            cost = self._pipelines[item.modality].processor.estimate(item.content)
            costs.setdefault(item.modality, []).append(cost)
        for modality, own in costs.items():
            self._pipelines[modality].admission.check(request, sum(own), len(own))
        for item in misses:
            admission = self._pipelines[item.modality].admission
            item.permit = Permit(admission, request, costs[item.modality].pop(0))

    async def warm_up(self, *, largest: bool = False) -> None:
        """Compute warm-up batches on every replica, so that the first request is not slow.

        Args:
            largest: whether to compute the largest batch, too, for its memory to be measured.

        Raises:
            DeviceUnavailableError: the model fails.
        """
        try:
            await self._try_out(_WARM_UP[self.info.runtime])
            if largest:
                pipelines = self._pipelines.values()
                await all_or_first_error([pipeline.try_out_largest() for pipeline in pipelines])
        except Exception as error:
            raise DeviceUnavailableError(
                f"The model does not run on {self.info.device}: {describe_error(error)}"
            ) from error

    async def _try_out(self, sizes: Sequence[int]) -> None:
        await all_or_first_error([pipeline.try_out(sizes) for pipeline in self._pipelines.values()])

    def try_again_if_failing(self) -> None:
        """If the model fails, start a trial batch, which updates the health."""
        if self.health.failing and not self._trial:
            self._trial = background(self._trial_run(), name="trial")

    async def _trial_run(self) -> None:
        try:
            async with asyncio.timeout(self.settings.request_timeout_s):
                await self._try_out(sizes=(1,))
        except Exception as error:  # noqa: BLE001 - any error: the model still fails
            logger.warning("The model still fails: %s", describe_error(error))
        finally:
            self._trial = None

    async def aclose(self) -> None:
        """Stop; waiting requests get an error."""
        if self._trial:
            self._trial.cancel()
        await asyncio.gather(*(pipeline.aclose() for pipeline in self._pipelines.values()))
        for share in self._shares.values():
            share.leave()
        self._shares.clear()
        if self.shared:
            await self.shared.aclose()


def _submit_all(unsubmitted: dict[Pipeline, list[QueueEntry]]) -> None:
    while unsubmitted:
        pipeline, entries = unsubmitted.popitem()
        pipeline.submit(entries)


def check_image_formats(settings: Settings) -> None:
    """Check IMAGE_FORMATS, without a model.

    Raises:
        ConfigurationError: a format is unknown.
    """
    ImageDecoder(_image_limits(settings, shorter_side_px=1))


def _image_limits(settings: Settings, shorter_side_px: int) -> ImageLimits:
    formats = settings.image_formats
    return ImageLimits(
        max_bytes=settings.max_image_bytes,
        max_pixels=settings.max_image_pixels,
        shorter_side_px=shorter_side_px,
        formats=None if formats == ("ALL",) else formats,
        max_wait_s=settings.request_timeout_s,
    )


def check_shared_cache(settings: Settings) -> Address | None:
    """Check VECTOR_CACHE_URL, and return its address; None if it is not set.

    This needs no loaded model, and sends no request to a server.

    Raises:
        ConfigurationError: the URL is invalid, or its store cannot be used on this host.
    """
    if not settings.vector_cache_url:
        return None
    from inference.store.connect import parse_address

    return parse_address(settings.vector_cache_url.get_secret_value())


def _shared_cache(address: Address | None, settings: Settings, model: Model) -> SharedCache | None:
    if address is None:
        return None
    if all(tower.is_lookup for tower in model.towers.values()):
        logger.info("VECTOR_CACHE_URL is not used: this model looks vectors up faster than a store")
        return None
    from inference.store.connect import shared_cache

    secret = settings.vector_cache_secret
    return shared_cache(
        address,
        model.info,
        secret.get_secret_value() if secret else "",
        settings.vector_cache_max_bytes,
        settings.vector_cache_timeout_ms,
    )


async def load_vectorizer(settings: Settings, resources: Resources | None = None) -> Vectorizer:
    """Load the model that the settings name, and warm it up.

    Args:
        settings: the settings of this model.
        resources: the resources that it shares with other models; None for its own.

    Raises:
        StartupError: the operator must fix something.
    """
    check_image_formats(settings)
    address = check_shared_cache(settings)
    started_s = time.perf_counter()
    loader = resources.loader if resources else None
    if loader:
        replicas = await loader.run(load_model, settings, converts=False)
        # Else what the loading left would hide what batches take.
        await loader.run(give_freed_memory_back)
    else:
        replicas = load_model(settings)
    shared = _shared_cache(address, settings, replicas[0])
    vectorizer = Vectorizer(replicas, settings, shared, resources)
    try:
        await vectorizer.warm_up(largest=bool(loader and settings.models_memory_bytes))
    except BaseException:  # a signal is handled, too
        await vectorizer.aclose()
        raise
    if shared:
        await shared.open()
    freeze_gc()
    if not loader:  # else the caller measures first
        give_freed_memory_back()
    _log_loaded(vectorizer.info, time.perf_counter() - started_s)
    return vectorizer


def _log_loaded(info: ModelInfo, seconds: float) -> None:
    logger.info(
        "Loaded %s%s (%s)%s: %s, %.1f million parameters, by %s on %s in %s, texts %s, "
        "%s space %s, %.1f s",
        info.name,
        f" of commit {info.revision}" if info.revision else "",
        info.family,
        " (the demo model: drawn shapes only, not for production)" if info.is_demo else "",
        f"a reranker ({info.activation})" if info.scores else f"{info.dimensions} dimensions",
        info.parameters / 1e6,
        info.runtime,
        info.device,
        info.precision,
        "as trained" if info.text_mode == "trained" else "as in the reference",
        "score" if info.scores else "vector",
        info.vector_space or info.score_space,
        seconds,
    )

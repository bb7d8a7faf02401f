"""The use case: inputs of a request in, their vectors out, in its order.

    inputs -> read -> remembered? -> admission (of all that is missing, or none) -> pipelines
    [Embedded] <- finish <- cache <---------------------------------------------------'

A pipeline for each modality, so that a search's text does not wait behind an import's images. It
knows no interface and no model library.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial

from backends.load import load_model
from backends.model import Embedded, Engine, GpuMemory, Modality, Model, ModelInfo
from config import Settings
from errors import (
    DeviceUnavailableError,
    InvalidInputError,
    UnhealthyError,
    describe_error,
)
from inference.asked import Asked, named, raise_first_error
from inference.entrance import Entrance
from inference.fair_queue import Caller, Party
from inference.health import Health
from inference.images.decoder import ImageLimits
from inference.images.reader import ImageReader
from inference.lane import BatchHook, Lane
from inference.pipeline import Pipeline
from inference.request import Input
from inference.sources import Reader, TextReader
from inference.tasks import all_or_first_error, background
from inference.timings import Timings
from inference.vector_cache import CacheStats, VectorCache, value_of
from inference.worker_pool import WorkerPool
from machine import freeze_gc, give_freed_memory_back, usable_cores

logger = logging.getLogger(__name__)

# What vectors of sentences may take beside those of whole inputs, as a share of these.
_PART_BYTES_PER_VECTOR = 1_000
# Batches of these sizes. OpenVINO's first pass prepares them all; a second is a tenth of a start.
_WARM_UP: dict[Engine, Sequence[int]] = {"openvino": (1,), "torch": (1, 2), "numpy": (1,)}
_POOLS: dict[Modality, str] = {"text": "tokenise", "image": "decode"}  # of threads that prepare


class Vectorizer:
    """Turns texts and images into vectors, for many callers at once.

    Args:
        replicas: the loaded model, once for each device.
        settings: the limits.

    Attributes:
        info: what is loaded.
        modalities: what it reads.
        health: whether it can do its work.
    """

    def __init__(self, replicas: Sequence[Model], settings: Settings) -> None:
        self.info = _info_of(replicas)
        self.health = Health(longest_job_s=settings.request_timeout_s)
        self._replicas = replicas
        self._settings = settings
        self._cache: VectorCache[Embedded] = VectorCache(settings.vector_cache_size)
        self._pipelines = {modality: self._pipeline(modality) for modality in replicas[0].towers}
        self.modalities = tuple(self._pipelines)
        self._trial: asyncio.Task[None] | None = None

    def _pipeline(self, modality: Modality) -> Pipeline:
        settings, threads, pool = self._settings, usable_cores(), _POOLS[modality]
        towers = [replica.towers[modality] for replica in self._replicas]
        reader: Reader = (
            TextReader(settings.max_text_chars, towers[0].preparation.splits)
            if modality == "text"
            else ImageReader(_image_limits(settings, self.info))
        )
        return Pipeline(
            towers[0],
            reader,
            WorkerPool(threads, pool, self.health.monitor(pool)),
            Entrance(max_busy=2 * threads),
            Lane(
                modality,
                towers,
                self.health,
                max_batch_size=settings.max_batch_size,
                max_items=settings.max_queue_items,
                timeout_s=settings.request_timeout_s,
            ),
            part_bytes=_PART_BYTES_PER_VECTOR * settings.vector_cache_size,
        )

    @property
    def cache_stats(self) -> CacheStats:
        """How often inputs were met again."""
        return self._cache.stats

    @property
    def gpu_memory(self) -> GpuMemory | None:
        """The memory of the devices together, now; None without a GPU."""
        memories = [memory for replica in self._replicas if (memory := replica.gpu_memory())]
        return sum(memories[1:], memories[0]) if memories else None

    @property
    def queue_items(self) -> Mapping[str, int]:
        """How many inputs wait in each lane, or are prepared or computed."""
        return {name: pipeline.lane.admission.items for name, pipeline in self._pipelines.items()}

    @property
    def queue_seconds(self) -> Mapping[str, float]:
        """How many seconds of work wait in each lane, or are in progress."""
        return {name: pipeline.lane.admission.work_s for name, pipeline in self._pipelines.items()}

    @property
    def observer_failures(self) -> int:
        """How often one who was told of a pass raised."""
        return sum(pipeline.lane.observer_failures for pipeline in self._pipelines.values())

    def observe_batches(self, hook: BatchHook) -> None:
        """Tell `hook` of every pass from now on."""
        for pipeline in self._pipelines.values():
            pipeline.lane.observe(hook)

    async def embed(
        self, inputs: Sequence[Input], timings: Timings | None = None
    ) -> list[Embedded]:
        """Embed the inputs of one request, in its order.

        Args:
            inputs: of any modality that the model reads.
            timings: takes down where the time goes.

        Raises:
            InvalidInputError: one cannot be embedded; the message names it.
            RequestTooLargeError: one is too large, or all are together.
            QueueFullError: too much waits already.
            BackendError: the model failed.
            UnhealthyError: it will fail until the process is started anew.
        """
        if fault := self.health.dead:
            raise UnhealthyError(fault)
        if not inputs:
            return []
        timings = timings or Timings()
        caller = Caller(is_query=any(one.is_query for one in inputs))
        with timings.waiting():
            asked = await self._read_all(inputs, timings)
            queued = [one for one in asked if not one.pipeline.is_table]
            self._admit(queued, caller)
            compute = {one.key: partial(self._compute, one, timings) for one in queued}
            outcomes = await self._cache.outcomes(compute, caller)
            raise_first_error(queued, outcomes)
            return [await self._answer(one, outcomes, timings) for one in asked]

    async def _read_all(self, inputs: Sequence[Input], timings: Timings) -> list[Asked]:
        if all(self._is_quick_to_read(one) for one in inputs):
            return [await self._read(one, timings) for one in inputs]
        with timings.step() as step:
            return await all_or_first_error([self._read_beside_others(one, step) for one in inputs])

    async def _read_beside_others(self, one: Input, step: Timings) -> Asked:
        with step.item() as item:
            return await self._read(one, item)

    def _is_quick_to_read(self, one: Input) -> bool:
        pipeline = self._pipelines.get(one.modality)
        return pipeline is None or pipeline.is_quick_to_read(one.content)

    async def _read(self, one: Input, timings: Timings) -> Asked:
        with named(one):
            pipeline = self._pipeline_for(one.modality)
            shaping = pipeline.reduce(one.shaping)
            source = await pipeline.read(one.content, timings)
        space = f"{self.info.vector_space}/{one.modality}/{shaping.key}/".encode()
        key = hashlib.sha256(space + source.digest).digest()
        return Asked(one, pipeline, source, shaping, key)

    def _pipeline_for(self, modality: Modality) -> Pipeline:
        if pipeline := self._pipelines.get(modality):
            return pipeline
        known = " and ".join(f"{name}s" for name in self._pipelines)
        raise InvalidInputError(
            f"this model ({self.info.family}) has no tower for {modality}s; it embeds {known} only",
            "modality",
        )

    def _admit(self, asked: Sequence[Asked], caller: Caller) -> None:
        """Let all that is missing wait, or nothing of it."""
        missing = {one.key: one for one in asked if not self._cache.knows(one.key)}
        for pipeline in self._pipelines.values():
            costs = [one.cost for one in missing.values() if one.pipeline is pipeline]
            if costs:
                pipeline.lane.admission.check(caller, sum(costs), len(costs))

    def _compute(
        self, asked: Asked, timings: Timings, party: Party
    ) -> Coroutine[None, None, Embedded]:
        claim = asked.pipeline.lane.admission.claim(party, asked.cost)
        return asked.pipeline.embed(asked.source, asked.shaping, party, claim, timings)

    async def _answer(
        self, asked: Asked, outcomes: Mapping[bytes, Embedded | Exception], timings: Timings
    ) -> Embedded:
        if asked.pipeline.is_table:
            with named(asked.input):
                embedded = await asked.pipeline.embed_by_table(asked.source, asked.shaping, timings)
        else:
            embedded = value_of(outcomes[asked.key])
        return asked.input.finish(embedded)

    async def warm_up(self) -> None:
        """Let every replica compute real shapes, so that the first request is not slow.

        Raises:
            DeviceUnavailableError: the model fails.
        """
        try:
            await self._try_out(_WARM_UP[self.info.runtime])
        except Exception as error:
            raise DeviceUnavailableError(
                f"The model does not run on {self.info.device}: {describe_error(error)}"
            ) from error

    async def _try_out(self, sizes: Sequence[int]) -> None:
        await all_or_first_error([pipeline.try_out(sizes) for pipeline in self._pipelines.values()])

    def try_again_if_failing(self) -> None:
        """Let a model that fails try once more, beside what waits, so that its health is known."""
        if self.health.failing and not self._trial:
            self._trial = background(self._trial_run(), name="trial")

    async def _trial_run(self) -> None:
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                await self._try_out(sizes=(1,))
        except Exception as error:  # noqa: BLE001 - whatever it is, the model fails
            logger.warning("The model still fails: %s", describe_error(error))
        finally:
            self._trial = None

    async def aclose(self) -> None:
        """Stop; what still waits is answered with an error."""
        if self._trial:
            self._trial.cancel()
        await asyncio.gather(*(pipeline.aclose() for pipeline in self._pipelines.values()))


def _info_of(replicas: Sequence[Model]) -> ModelInfo:
    devices = ", ".join(replica.info.device for replica in replicas)
    return replace(replicas[0].info, device=devices)


def _image_limits(settings: Settings, info: ModelInfo) -> ImageLimits:
    formats = settings.image_formats
    return ImageLimits(
        max_bytes=settings.max_image_bytes,
        max_pixels=settings.max_image_pixels,
        shorter_side_px=info.image_px,
        formats=None if formats == ("ALL",) else formats,
        max_wait_s=settings.request_timeout_s,
    )


async def load_vectorizer(settings: Settings) -> Vectorizer:
    """Load the model that the settings name, and warm it up.

    Raises:
        StartupError: something is missing that the operator must fix.
    """
    started_s = time.perf_counter()
    vectorizer = Vectorizer(load_model(settings), settings)
    try:
        await vectorizer.warm_up()
    except BaseException:  # a signal, too
        await vectorizer.aclose()
        raise
    freeze_gc()
    give_freed_memory_back()
    _log_loaded(vectorizer.info, time.perf_counter() - started_s)
    return vectorizer


def _log_loaded(info: ModelInfo, seconds: float) -> None:
    logger.info(
        "Loaded %s%s (%s)%s: %d dimensions, %.1f million parameters, by %s on %s in %s, texts %s, "
        "vector space %s, %.1f s",
        info.name,
        f" of commit {info.revision}" if info.revision else "",
        info.family,
        " (the demo model: drawn shapes only, not for production)" if info.is_demo else "",
        info.dimensions,
        info.parameters / 1e6,
        info.runtime,
        info.device,
        info.precision,
        "as trained" if info.text_mode == "trained" else "as in the reference",
        info.vector_space,
        seconds,
    )

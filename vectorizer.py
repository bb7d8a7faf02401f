"""The use case: texts and images in, their vectors out, in the order of the request.

    texts  ------------------------> lane "text"  -> backend.encode_text
    images -> read, decode, scale -> lane "image" -> backend.encode_image
              (a pool of threads)    (a batcher each, one thread each)

Two lanes, so that a search's text does not wait behind an import's images. Equal inputs are
computed once. It knows no HTTP and no model library.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np
from PIL import Image

from backends.load import load_model
from backends.model import (
    BackendStats,
    EmbeddingBackend,
    Embeddings,
    ModelInfo,
)
from config import Settings
from errors import (
    DeviceUnavailableError,
    InvalidInputError,
    RequestTooLargeError,
    UnhealthyError,
    describe_error,
)
from inference.health import Health
from inference.images.decoder import Decoder
from inference.images.reader import ImageLimits
from inference.lane import BatchHook, Encode, Lane, Vector
from inference.record import Timings
from inference.tasks import all_or_first_error, background
from inference.vector_cache import CacheStats, VectorCache
from machine import freeze_gc, give_freed_memory_back, usable_cores

logger = logging.getLogger(__name__)

Embed: TypeAlias = Callable[[Timings], Coroutine[None, None, Vector]]


@dataclass(frozen=True)
class Vectors:
    """The answer to one request: [n texts, dimensions] and [n images, dimensions] float32."""

    texts: Embeddings
    images: Embeddings


class Vectorizer:
    """Turns texts and images into vectors, for many callers at once.

    Args:
        replicas: the loaded model, once for each device.
        settings: the limits.

    Attributes:
        info: what is loaded.
        health: whether it can do its work.
    """

    def __init__(self, replicas: Sequence[EmbeddingBackend], settings: Settings) -> None:
        self.info = _info_of(replicas)
        self.health = Health(longest_job_s=settings.request_timeout_s)
        self._replicas = replicas
        self._settings = settings
        self._cache: VectorCache[Vector] = VectorCache(settings.vector_cache_size)
        self._texts = self._lane("text", [replica.encode_text for replica in replicas])
        self._images = self._lane("image", [replica.encode_image for replica in replicas])
        threads = usable_cores()
        self._decoder = Decoder(
            replicas[0].preprocess,
            _image_limits(settings, self.info),
            self.health.monitor("decode"),
            threads=threads,
            # no more than keeps the model busy
            ahead=2 * settings.max_batch_size * len(replicas) + threads,
        )
        self._trial: asyncio.Task[None] | None = None

    def _lane(self, name: str, encodes: Sequence[Encode]) -> Lane:
        return Lane(
            name,
            encodes,
            self.health,
            max_batch_size=self._settings.max_batch_size,
            max_items=self._settings.max_queue_items,
            timeout_s=self._settings.request_timeout_s,
        )

    @property
    def cache_stats(self) -> CacheStats:
        """How often inputs were met again."""
        return self._cache.stats

    @property
    def backend_stats(self) -> BackendStats:
        """What the model counts, and the memory of its devices."""
        return BackendStats.total([replica.stats for replica in self._replicas])

    @property
    def queue_items(self) -> Mapping[str, int]:
        """How many items wait in each lane, or are decoded or computed."""
        return {"text": self._texts.items, "image": self._images.items}

    @property
    def observer_failures(self) -> int:
        """How often one who was told of a pass raised."""
        return self._texts.observer_failures + self._images.observer_failures

    def observe_batches(self, hook: BatchHook) -> None:
        """Tell `hook` of every pass from now on."""
        for lane in (self._texts, self._images):
            lane.observe(hook)

    async def vectorize(
        self, texts: Sequence[str], images: Sequence[str], timings: Timings | None = None
    ) -> Vectors:
        """Embed texts and base64 images.

        Args:
            texts: the texts.
            images: the base64 of each image's file.
            timings: takes down where the time goes.

        Raises:
            InvalidInputError: an item cannot be vectorised; the message names it.
            RequestTooLargeError: there are too many, or one is too large; the message names it.
            QueueFullError: too much waits already.
            BackendError: the model failed.
            UnhealthyError: it will fail until the process is started anew.
        """
        self._check(len(texts) + len(images))
        embeds = {f"texts[{i}]": partial(self._embed_text, text) for i, text in enumerate(texts)}
        embeds |= {f"images[{i}]": partial(self._embed_image, b) for i, b in enumerate(images)}
        timings = timings or Timings()
        vectors = await all_or_first_error(
            [_embed_item(name, embed, timings) for name, embed in embeds.items()]
        )
        return Vectors(self._stack(vectors[: len(texts)]), self._stack(vectors[len(texts) :]))

    def _check(self, items: int) -> None:
        if fault := self.health.dead:
            raise UnhealthyError(fault)
        if items > self._settings.max_request_items:
            raise RequestTooLargeError(
                f"{items} texts and images; at most {self._settings.max_request_items} are "
                "allowed in one request",
                "items",
            )

    async def warmup(self) -> None:
        """Run both towers of every replica with real shapes, so that the first request is not slow.

        Raises:
            DeviceUnavailableError: the model fails.
        """
        try:
            await self._try_out(sizes=(1, 2))
        except Exception as error:
            raise DeviceUnavailableError(
                f"The model does not run on {self.info.device}: {describe_error(error)}"
            ) from error

    async def _try_out(self, sizes: Sequence[int]) -> None:
        picture = await self._decoder.preprocessed(Image.new("RGB", (640, 480)))
        await self._images.try_out(picture, sizes)
        await self._texts.try_out("a text", sizes)

    def try_again_if_failing(self) -> None:
        """Let a model that fails try once more, beside what waits, so that its health is known."""
        if self.health.failing and not self._trial:
            self._trial = background(self._try_again(), name="trial")

    async def _try_again(self) -> None:
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                await self._try_out(sizes=(1,))
        except Exception as error:  # noqa: BLE001 - whatever it is, the model fails
            logger.warning("The model still fails: %s", describe_error(error))
        finally:
            self._trial = None

    async def aclose(self) -> None:
        """Stop both lanes and the pool; what still waits is answered with an error."""
        if self._trial:
            self._trial.cancel()
        await asyncio.gather(self._texts.aclose(), self._images.aclose(), self._decoder.aclose())

    async def _embed_text(self, text: str, timings: Timings) -> Vector:
        if len(text) > self._settings.max_text_chars:
            raise RequestTooLargeError(
                f"{len(text)} characters; at most {self._settings.max_text_chars} are allowed",
                "text_length",
            )
        key = b"text" + hashlib.sha256(text.encode()).digest()
        return await self._cache.get_or_compute(key, lambda: self._compute_text(text, timings))

    async def _compute_text(self, text: str, timings: Timings) -> Vector:
        with self._texts.entered():
            return await self._texts.compute(text, timings)

    async def _embed_image(self, base64: str, timings: Timings) -> Vector:
        raw, digest = await self._decoder.read(base64, timings)
        key = b"image" + digest
        return await self._cache.get_or_compute(key, lambda: self._compute_image(raw, timings))

    async def _compute_image(self, raw: bytes, timings: Timings) -> Vector:
        with self._images.entered():
            async with self._decoder.decoded(raw, timings) as pixels:
                return await self._images.compute(pixels, timings)

    def _stack(self, vectors: Sequence[Vector]) -> Embeddings:
        if not vectors:
            return np.empty((0, self.info.dimensions), np.float32)
        return np.stack(vectors)


def _info_of(replicas: Sequence[EmbeddingBackend]) -> ModelInfo:
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


async def _embed_item(name: str, embed: Embed, request: Timings) -> Vector:
    with request.item() as timings:
        try:
            return await embed(timings)
        except InvalidInputError as error:
            raise error.at(name) from error


async def load_vectorizer(settings: Settings) -> Vectorizer:
    """Load the model that the settings name, and warm it up.

    Raises:
        StartupError: something is missing that the operator must mend.
    """
    started_s = time.perf_counter()
    vectorizer = Vectorizer(load_model(settings), settings)
    try:
        await vectorizer.warmup()
    except BaseException:  # a signal, too
        await vectorizer.aclose()
        raise
    freeze_gc()
    give_freed_memory_back()
    _log_loaded(vectorizer.info, time.perf_counter() - started_s)
    return vectorizer


def _log_loaded(info: ModelInfo, seconds: float) -> None:
    logger.info(
        "Loaded %s%s: %d dimensions, %.1f million parameters, by %s on %s in %s, texts %s, %.1f s",
        info.family,
        " (the demo model: drawn shapes only, not for production)" if info.is_demo else "",
        info.dimensions,
        info.parameters / 1e6,
        info.runtime,
        info.device,
        info.precision,
        "as trained" if info.text_mode == "trained" else "as in the reference",
        seconds,
    )

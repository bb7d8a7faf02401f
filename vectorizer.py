"""The use case: texts and images in, their vectors out, in the order of the request.

    texts  --------------------------------> lane "text"  -> backend.encode_text
    images -> base64 -> decode, preprocess -> lane "image" -> backend.encode_image
                        (a pool of threads)   (a batcher each, one thread each)

Two lanes, so that a search's text does not wait behind an import's images. Equal inputs are
computed once. It knows no HTTP and no model library.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from config import Settings, forbid_hub_access, is_on, limit_compute_threads
from inference.backends import load_backend
from inference.backends.base import BackendOptions, EmbeddingBackend, Embeddings, ModelInfo
from inference.batcher import Batcher
from inference.errors import InvalidInputError
from inference.images import ImageLimits, decode_base64, open_image
from inference.machine import keep_freed_memory, usable_cores
from inference.model_folder import ModelFolder, detect
from inference.vector_cache import CacheStats, VectorCache

logger = logging.getLogger(__name__)

Vector: TypeAlias = npt.NDArray[np.float32]  # [dimensions]


@dataclass(frozen=True)
class Vectors:
    """The answer to one request: [n texts, dimensions] and [n images, dimensions] float32."""

    texts: Embeddings
    images: Embeddings


class Vectorizer:
    """Turns texts and images into vectors, for many callers at once, on one loaded model."""

    def __init__(self, backend: EmbeddingBackend, settings: Settings) -> None:
        self._backend = backend
        self._limits = ImageLimits(max_pixels=settings.max_image_pixels)
        self._cache: VectorCache[Vector] = VectorCache(settings.vector_cache_size)
        threads = usable_cores()
        self._decode_pool = ThreadPoolExecutor(threads, "decode")
        # Preprocessed images wait for the model in memory: no more of them than keep it busy.
        self._decode_ahead = asyncio.Semaphore(2 * settings.max_batch_size + threads)
        self._text_lane: Batcher[str, Vector] = Batcher(
            [partial(_rows, backend.encode_text)],
            max_batch_size=settings.max_batch_size,
            name="text",
        )
        self._image_lane: Batcher[Any, Vector] = Batcher(
            [partial(_rows, backend.encode_image)],
            max_batch_size=settings.max_batch_size,
            name="image",
        )

    @property
    def info(self) -> ModelInfo:
        """What is loaded."""
        return self._backend.info

    @property
    def cache_stats(self) -> CacheStats:
        """How often inputs were met again."""
        return self._cache.stats

    async def vectorize(self, texts: Sequence[str], images: Sequence[str]) -> Vectors:
        """Embed texts and base64 images.

        Raises:
            InvalidInputError: an item cannot be vectorised; the message names it.
            BackendError: the model failed.
        """
        vectors = await _all_or_first_error(
            [self._named(f"texts[{i}]", self._embed_text(text)) for i, text in enumerate(texts)]
            + [self._named(f"images[{i}]", self._embed_image(b)) for i, b in enumerate(images)]
        )
        return Vectors(self._stack(vectors[: len(texts)]), self._stack(vectors[len(texts) :]))

    async def warmup(self) -> None:
        """Run both towers once with real shapes, so that the first request is not slow."""
        blank = self._backend.preprocess(Image.new("RGB", (640, 480)))
        for size in (1, 2):
            await asyncio.gather(*(self._image_lane.submit(blank) for _ in range(size)))
            await asyncio.gather(*(self._text_lane.submit("warm up") for _ in range(size)))

    async def aclose(self) -> None:
        """Stop both lanes and the pool."""
        await self._text_lane.aclose()
        await self._image_lane.aclose()
        self._decode_pool.shutdown(cancel_futures=True)

    async def _named(self, item: str, embedding: Coroutine[None, None, Vector]) -> Vector:
        try:
            return await embedding
        except InvalidInputError as error:
            raise error.at(item) from error

    async def _embed_text(self, text: str) -> Vector:
        key = _digest(b"text", text.encode())
        return await self._cache.get_or_compute(key, lambda: self._text_lane.submit(text))

    async def _embed_image(self, base64: str) -> Vector:
        raw = decode_base64(base64)
        return await self._cache.get_or_compute(
            _digest(b"image", raw), lambda: self._compute_image(raw)
        )

    async def _compute_image(self, raw: bytes) -> Vector:
        async with self._decode_ahead:
            decoded = asyncio.get_running_loop().run_in_executor(
                self._decode_pool, self._decode, raw
            )
            return await self._image_lane.submit(await decoded)

    def _decode(self, raw: bytes) -> Any:
        return self._backend.preprocess(open_image(raw, self._limits))

    def _stack(self, vectors: Sequence[Vector]) -> Embeddings:
        if not vectors:
            return np.empty((0, self.info.dimensions), np.float32)
        return np.stack(vectors)


def _rows(encode: Any, items: Sequence[Any]) -> list[Vector]:
    # Each a copy of its own: a remembered row must not keep its whole batch in memory.
    return [row.copy() for row in encode(items)]


def _digest(modality: bytes, content: bytes) -> bytes:
    return hashlib.sha256(modality + b":" + content).digest()


async def _all_or_first_error(embeddings: Sequence[Coroutine[Any, Any, Vector]]) -> list[Vector]:
    """Wait for all; on a failure give the others up and raise it."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(embedding) for embedding in embeddings]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [task.result() for task in tasks]


async def load_vectorizer(settings: Settings) -> Vectorizer:
    """Load the model that the settings name, and warm it up.

    Raises:
        StartupError: something is missing that the operator must mend.
    """
    folder = detect(settings.models_dir)
    logger.info("Loading the %s model in %s", folder.family, folder.root.absolute())
    started_s = time.perf_counter()
    forbid_hub_access()
    limit_compute_threads(usable_cores())
    keep_freed_memory()
    backend = load_backend(folder, _backend_options(settings, folder))
    vectorizer = Vectorizer(backend, settings)
    await vectorizer.warmup()
    _log_loaded(vectorizer.info, time.perf_counter() - started_s)
    return vectorizer


def _backend_options(settings: Settings, folder: ModelFolder) -> BackendOptions:
    baked = folder.trust_remote_code  # as download.py left it; it beats the variable
    return BackendOptions(
        device=settings.cuda_core if settings.enable_cuda else "cpu",
        text_mode=settings.text_mode,
        trust_remote_code=settings.trust_remote_code if baked is None else is_on(baked),
    )


def _log_loaded(info: ModelInfo, seconds: float) -> None:
    logger.info(
        "Loaded %s%s: %d dimensions, %.1f million parameters, on %s in %s, texts %s, %.1f s",
        info.family,
        " (the demo model: drawn shapes only, not for production)" if info.is_demo else "",
        info.dimensions,
        info.parameters / 1e6,
        info.device,
        info.precision,
        "as trained" if info.text_mode == "trained" else "as in the reference",
        seconds,
    )

"""Image files to what the model takes, in a pool of threads, and no more ahead than it needs.

base64 -> read -> bytes, digest -> decode -> preprocess -> (held until the model has taken it)
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any, TypeAlias

from PIL.Image import Image

from errors import InvalidInputError
from inference.health import Monitor
from inference.images.reader import ImageLimits, ImageReader, decode_base64
from inference.record import Timings
from inference.worker_pool import WorkerPool

Preprocess: TypeAlias = Callable[[Image], Any]

# Longer base64 is read in the pool: it would hold up the event loop for a millisecond and more.
_LONG_CHARS = 1_000_000


class Decoder:
    """Reads, decodes and preprocesses image files.

    Args:
        preprocess: brings a decoded image to the form that the model takes.
        limits: what an image may be.
        monitor: watches how long they take.
        threads: that decode.
        ahead: most images that are decoded or wait, decoded, for the model.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        limits: ImageLimits,
        monitor: Monitor,
        *,
        threads: int,
        ahead: int,
    ) -> None:
        self._preprocess = preprocess
        self._max_bytes = limits.max_bytes
        self._reader = ImageReader(limits)
        self._pool = WorkerPool(threads, "decode", monitor)
        self._ahead = asyncio.Semaphore(ahead)

    async def read(self, base64: str, timings: Timings) -> tuple[bytes, bytes]:
        """Return the bytes of an image file, and their digest.

        Raises:
            InvalidInputError: it is not base64.
            RequestTooLargeError: it is too large a file.
        """
        if len(base64) < _LONG_CHARS:
            return self._read(base64, timings)
        return await self._pool.run(self._read, base64, timings)

    def _read(self, base64: str, timings: Timings) -> tuple[bytes, bytes]:
        with timings.measure("decode"):
            raw = decode_base64(base64, self._max_bytes)
            return raw, hashlib.sha256(raw).digest()

    @asynccontextmanager
    async def decoded(self, raw: bytes, timings: Timings) -> AsyncIterator[Any]:
        """Give a preprocessed image; it counts as one ahead until the end.

        Raises:
            InvalidInputError: it is not an image that can be read.
            RequestTooLargeError: it is too large an image.
        """
        async with self._ahead:
            yield await self._pool.run(self._decode, raw, timings)

    async def preprocessed(self, image: Image) -> Any:
        """Return an image of our own as the model takes it.

        Raises:
            InvalidInputError: it cannot be scaled.
        """
        return await self._pool.run(self._prepare, image)

    def _decode(self, raw: bytes, timings: Timings) -> Any:
        with ExitStack() as held:
            with timings.measure("decode"):
                image = held.enter_context(self._reader.opened(raw))
            with timings.measure("preprocess"):
                return self._prepare(image)

    def _prepare(self, image: Image) -> Any:
        try:
            return self._preprocess(image)
        except (ValueError, OSError) as error:  # what Pillow and the geometry say of an image
            raise InvalidInputError(
                f"an image of {image.width}x{image.height} pixels in mode {image.mode} that cannot "
                f"be scaled: {str(error) or type(error).__name__}",
                "format",
            ) from error

    async def aclose(self) -> None:
        """Stop the threads; what still runs is given a moment to end."""
        await self._pool.aclose()

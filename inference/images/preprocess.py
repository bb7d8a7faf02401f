"""Preprocesses images of requests: base64, decoding, and the input processor, in a thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack

from PIL import Image

from backends.model import EncodeParams, InputProcessor
from errors import InvalidInputError
from inference.images.decoder import ImageDecoder, ImageLimits, decode_base64
from inference.request import Content
from inference.timings import ItemTimes
from inference.work import ChunkInputs

# Longer base64 is decoded in a thread: it would block the event loop for over a millisecond.
_INLINE_CHARS = 1_000_000
_MORE_THAN_8_BITS = ("I", "F")  # prefixes of Pillow's modes for such grey images
_WHITE = 255
_SAMPLE_SIZES = (1024, 256), (2048, 2048)

logger = logging.getLogger(__name__)


class ImagePreprocessor:
    """Reads and preprocesses images, within limits.

    Args:
        processor: the tower's input processor.
        limits: the limits of images.

    Raises:
        ConfigurationError: the limits name an unknown format.
    """

    def __init__(self, processor: InputProcessor, limits: ImageLimits) -> None:
        self._processor = processor
        self._max_bytes = limits.max_bytes
        self._decoder = ImageDecoder(limits)
        self._has_logged_clipping = False

    def reads_inline(self, content: Content) -> bool:
        """Return whether the base64 is short enough to decode on the event loop."""
        return len(content) < _INLINE_CHARS

    def read(self, content: Content, times: ItemTimes) -> bytes:
        """Decode the base64.

        Raises:
            InvalidInputError: the content is not base64.
            RequestTooLargeError: the file is too large.
        """
        began_s = time.perf_counter()
        try:
            if not isinstance(content, str):
                raise InvalidInputError("expected the base64 of an image file", "base64")
            return decode_base64(content, self._max_bytes)
        finally:
            times.decoded_s = time.perf_counter() - began_s

    def runs_inline(self, content: bytes) -> bool:
        """Return False: decoding takes milliseconds."""
        return False

    def __call__(self, content: bytes, params: EncodeParams, times: ItemTimes) -> ChunkInputs:
        """Decode the file and preprocess the image.

        Raises:
            InvalidInputError: the file is no readable image.
            RequestTooLargeError: the image is too large.
        """
        times.preprocess_began_s = time.perf_counter()
        with ExitStack() as held:
            try:
                image = held.enter_context(self._decoder.opened(content))
            finally:
                times.opened_s = time.perf_counter()
            self._log_clipping(image)
            try:
                prepared = self._processor.prepare(image, params)
            except (ValueError, OSError) as error:  # raised by Pillow or the input processor
                raise InvalidInputError(
                    f"an image of {image.width}x{image.height} pixels in mode {image.mode} that "
                    f"cannot be scaled: {str(error) or type(error).__name__}",
                    "format",
                ) from error
        times.preprocessed_s = time.perf_counter()
        return ChunkInputs([prepared])

    def _log_clipping(self, image: Image.Image) -> None:
        if self._has_logged_clipping or not image.mode.startswith(_MORE_THAN_8_BITS):
            return
        _, brightest = image.getextrema()
        if isinstance(brightest, int | float) and brightest > _WHITE:
            self._has_logged_clipping = True
            logger.warning(
                "A grey image of more than 8 bits was sent (mode %s). Values above %d are "
                "white for the model, as in the reference: send such images with 8 bits. This is "
                "logged once",
                image.mode,
                _WHITE,
            )

    def samples(self) -> Iterator[Image.Image]:
        """Yield blank images: a wide one, which has the fewest tiles, and a large square."""
        for size in _SAMPLE_SIZES:
            yield Image.new("RGB", size)

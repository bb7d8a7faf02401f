"""Images as a request brings them: base64 of a file, opened and preprocessed in a thread."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack

from PIL import Image

from backends.model import EncodeParams, InputProcessor
from errors import InvalidInputError
from inference.images.decoder import ImageDecoder, ImageLimits, decode_base64
from inference.request import Content
from inference.timings import ItemTimes
from inference.work import ChunkInputs

# Longer base64 is read in a thread: it would hold up the event loop for a millisecond and more.
_INLINE_CHARS = 1_000_000
_MORE_THAN_8_BITS = ("I", "F")  # how Pillow's modes of such grey images begin
_WHITE = 255

logger = logging.getLogger(__name__)


class ImagePreprocessor:
    """Image files, within limits.

    Args:
        processor: of the tower.
        limits: what an image may be.

    Raises:
        ConfigurationError: the limits name a format that does not exist.
    """

    def __init__(self, processor: InputProcessor, limits: ImageLimits) -> None:
        self._processor = processor
        self._max_bytes = limits.max_bytes
        self._decoder = ImageDecoder(limits)
        self._told_of_clipping = False

    def reads_inline(self, content: Content) -> bool:
        """Tell whether the base64 is short."""
        return len(content) < _INLINE_CHARS

    def read(self, content: Content, times: ItemTimes) -> bytes:
        """Decode the base64.

        Raises:
            InvalidInputError: it is none.
            RequestTooLargeError: it is too large a file.
        """
        began_s = time.perf_counter()
        try:
            if not isinstance(content, str):
                raise InvalidInputError("expected the base64 of an image file", "base64")
            return decode_base64(content, self._max_bytes)
        finally:
            times.decoded_s = time.perf_counter() - began_s

    def runs_inline(self, content: bytes) -> bool:
        """Say no: decoding takes milliseconds."""
        return False

    def __call__(self, content: bytes, params: EncodeParams, times: ItemTimes) -> ChunkInputs:
        """Decode the file, and bring the image to the size of the model.

        Raises:
            InvalidInputError: it is no image that can be read.
            RequestTooLargeError: it is too large an image.
        """
        times.preprocess_began_s = time.perf_counter()
        with ExitStack() as held:
            try:
                image = held.enter_context(self._decoder.opened(content))
            finally:
                times.opened_s = time.perf_counter()
            self._tell_of_clipping(image)
            try:
                prepared = self._processor.prepare(image, params)
            except (ValueError, OSError) as error:  # what Pillow and the geometry say of an image
                raise InvalidInputError(
                    f"an image of {image.width}x{image.height} pixels in mode {image.mode} that "
                    f"cannot be scaled: {str(error) or type(error).__name__}",
                    "format",
                ) from error
        times.preprocessed_s = time.perf_counter()
        return ChunkInputs([prepared])

    def _tell_of_clipping(self, image: Image.Image) -> None:
        if self._told_of_clipping or not image.mode.startswith(_MORE_THAN_8_BITS):
            return
        _, brightest = image.getextrema()
        if isinstance(brightest, int | float) and brightest > _WHITE:
            self._told_of_clipping = True
            logger.warning(
                "A grey image of more than 8 bits came (mode %s). All that is brighter than %d is "
                "white to the model, as in the reference: send such images in 8 bits. This is "
                "logged once",
                image.mode,
                _WHITE,
            )

    def sample(self) -> Image.Image:
        """Return a blank image: a wide one, as such have the fewest tiles."""
        return Image.new("RGB", (1024, 256))

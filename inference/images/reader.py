"""Images as a request brings them: base64 of a file, opened and prepared in a thread."""

from __future__ import annotations

import hashlib
import logging
from contextlib import ExitStack

from PIL import Image

from backends.model import Parts, Preparation, Prepared, Shaping
from errors import InvalidInputError
from inference.images.decoder import ImageDecoder, ImageLimits, decode_base64
from inference.sources import Source
from inference.timings import Timings

# Longer base64 is read in a thread: it would hold up the event loop for a millisecond and more.
_LONG_CHARS = 1_000_000
_MORE_THAN_8_BITS = ("I", "F")  # how Pillow's modes of such grey pictures begin
_WHITE = 255

logger = logging.getLogger(__name__)


class ImageReader:
    """Image files, within limits.

    Args:
        limits: what an image may be.

    Raises:
        ConfigurationError: the limits name a format that does not exist.
    """

    def __init__(self, limits: ImageLimits) -> None:
        self._max_bytes = limits.max_bytes
        self._decoder = ImageDecoder(limits)
        self._told_of_clipping = False

    def is_quick_to_read(self, content: str) -> bool:
        """Tell whether the base64 is short."""
        return len(content) < _LONG_CHARS

    def read(self, content: str, timings: Timings) -> Source:
        """Decode the base64.

        Raises:
            InvalidInputError: it is none.
            RequestTooLargeError: it is too large a file.
        """
        with timings.measure("decode"):
            raw = decode_base64(content, self._max_bytes)
            return Source(raw, hashlib.sha256(raw).digest())

    def is_quick_to_split(self, content: bytes) -> bool:
        """Say yes: an image is split when it is prepared, if at all."""
        return True

    def split(self, preparation: Preparation, content: bytes, shaping: Shaping) -> Parts:
        """Split a file."""
        return preparation.split(content, shaping)

    def is_quick_to_prepare(self, part: bytes) -> bool:
        """Say no: decoding takes milliseconds."""
        return False

    def prepare(
        self, preparation: Preparation, part: bytes, shaping: Shaping, timings: Timings
    ) -> Prepared:
        """Decode the file, and bring the picture to the size of the model.

        Raises:
            InvalidInputError: it is no image that can be read.
            RequestTooLargeError: it is too large an image.
        """
        with ExitStack() as held:
            with timings.measure("decode"):
                image = held.enter_context(self._decoder.opened(part))
            self._tell_of_clipping(image)
            with timings.measure("preprocess"):
                return _prepare(preparation, image, shaping)

    def _tell_of_clipping(self, image: Image.Image) -> None:
        if self._told_of_clipping or not image.mode.startswith(_MORE_THAN_8_BITS):
            return
        _, brightest = image.getextrema()
        if isinstance(brightest, int | float) and brightest > _WHITE:
            self._told_of_clipping = True
            logger.warning(
                "A grey picture of more than 8 bits came (mode %s). All that is brighter than %d "
                "is white to the model, as in the reference: send such pictures in 8 bits. This "
                "is told once",
                image.mode,
                _WHITE,
            )

    def sample(self) -> Image.Image:
        """Return a blank picture: a wide one, as such have the fewest tiles."""
        return Image.new("RGB", (1024, 256))


def _prepare(preparation: Preparation, image: Image.Image, shaping: Shaping) -> Prepared:
    try:
        return preparation.prepare(image, shaping)
    except (ValueError, OSError) as error:  # what Pillow and the geometry say of an image
        raise InvalidInputError(
            f"an image of {image.width}x{image.height} pixels in mode {image.mode} that cannot "
            f"be scaled: {str(error) or type(error).__name__}",
            "format",
        ) from error

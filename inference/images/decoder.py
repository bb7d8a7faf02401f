"""Decodes images of requests: base64, then pixels in the image's own mode, within limits.

    base64 -> decode_base64 -> bytes -> ImageDecoder.opened -> PIL image

`decode_base64` is fast; `ImageDecoder.opened` is work for a thread pool. This module knows no
model: the input processor converts the mode.
"""

from __future__ import annotations

import struct
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pybase64
from PIL import Image, UnidentifiedImageError

from errors import (
    ConfigurationError,
    DeadlineExceededError,
    InvalidInputError,
    RequestTooLargeError,
)
from inference.images.guards import (
    PatientFile,
    check_scans,
    image_in_icon,
    is_icon,
    skip_png_metadata,
)

with suppress(ImportError):  # phones' HEIC, where its decoder is installed
    from pillow_heif import register_heif_opener  # type: ignore[import-not-found,unused-ignore]

    register_heif_opener()

# Limits are checked here before decoding, with messages of this project.
Image.MAX_IMAGE_PIXELS = None
skip_png_metadata()
# Pillow warns of irregular files that it can read; clients' files must not fill the log.
warnings.filterwarnings("ignore", module=r"PIL\.")

# Formats that Pillow reads as another (MPO as JPEG), or only if their decoder is installed.
_WITHOUT_ENTRY = {"MPO", "AVIF", "HEIF"}
_PYTHONS_OWN = (LookupError, TypeError, AttributeError, ArithmeticError, struct.error)
_URL_SAFE_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_WHITESPACE = b" \t\n\r\f\v"


@dataclass(frozen=True)
class ImageLimits:
    """The limits of images.

    Attributes:
        max_bytes: maximum bytes of the file.
        max_pixels: maximum width x height, of the stored image and of the image scaled to
            `shorter_side_px`.
        shorter_side_px: shorter side of preprocessed images.
        formats: accepted formats by Pillow's names; None for all formats of Pillow.
        max_wait_s: maximum wait in seconds for memory that earlier images use.
    """

    max_bytes: int
    max_pixels: int
    shorter_side_px: int
    formats: tuple[str, ...] | None = None
    max_wait_s: float = 45.0


def decode_base64(text: str, max_bytes: int) -> bytes:
    """Decode base64, strictly.

    It also accepts a `data:...;base64,` prefix, whitespace, the URL-safe alphabet and missing
    padding. Other characters are rejected, where the reference skips them.

    Raises:
        InvalidInputError: the text is not base64, or is empty.
        RequestTooLargeError: the file has more than `max_bytes`.
    """
    payload = _without_data_prefix(text)
    try:
        raw = pybase64.b64decode(payload, validate=True)
    except ValueError:
        raw = _decode_unusual(payload)
    if not raw:
        raise InvalidInputError("is empty; expected the base64 of an image file", "base64")
    if len(raw) > max_bytes:
        raise RequestTooLargeError(
            f"a file of {len(raw)} bytes; at most {max_bytes} are allowed", "file_size"
        )
    return raw


class ImageDecoder:
    """Decodes image files within limits; thread-safe.

    All threads together never hold more decoded pixels than one image may have: threads wait for
    each other in order, so memory is bounded.

    Raises:
        ConfigurationError: the limits name an unknown format.
    """

    def __init__(self, limits: ImageLimits) -> None:
        self._limits = limits
        self._formats = _known(limits.formats)
        self._accepted = ", ".join(filter(_is_read, limits.formats or ()))
        self._free_pixels = limits.max_pixels
        self._freed = threading.Condition()
        self._turn = threading.Lock()

    @contextmanager
    def opened(self, raw: bytes) -> Iterator[Image.Image]:
        """Open a context with a decoded image: the file's image, or an animation's first frame.

        Raises:
            InvalidInputError: the file is not an image, or is broken.
            RequestTooLargeError: the image exceeds the limits.
            DeadlineExceededError: the file waited too long for memory that earlier images use.
        """
        is_icon_file = is_icon(raw) and (self._formats is None or "ICO" in self._formats)
        with self._reading():
            image = image_in_icon(raw) if is_icon_file else self._open(raw)
        _check_size(image, self._limits)
        check_scans(image, raw)
        with self._held(image.width * image.height):
            with self._reading():
                if is_icon_file:
                    image = self._open(raw)
                image.load()  # `open` is lazy: a broken file must fail here, not in the model
            yield image

    def open(self, raw: bytes) -> Image.Image:
        """Decode an image file, without a bound on the memory of several images.

        Raises:
            InvalidInputError: as in `opened`.
        """
        with self.opened(raw) as image:
            return image

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn Pillow's errors about a file into InvalidInputError."""
        try:
            yield
        except InvalidInputError:
            raise
        except UnidentifiedImageError as error:
            accepted = f" of an accepted format ({self._accepted})" if self._accepted else ""
            raise InvalidInputError(f"not an image{accepted}", "not_an_image") from error
        except _PYTHONS_OWN as error:  # messages without use for a client
            message = "a broken image: its parts do not fit together"
            raise InvalidInputError(message, "broken_image") from error
        except Exception as error:
            message = f"a broken image: {str(error) or type(error).__name__}"
            raise InvalidInputError(message, "broken_image") from error

    def _open(self, raw: bytes) -> Image.Image:
        return Image.open(PatientFile(raw), formats=self._formats)

    @contextmanager
    def _held(self, pixels: int) -> Iterator[None]:
        """Hold the memory of an image's pixels, once earlier images have freed it."""
        # Small images do not overtake a waiting large image. The wait is bounded, so that a hanging
        # decoder blocks only its own thread.
        until_s, is_free = time.monotonic() + self._limits.max_wait_s, False
        if self._turn.acquire(timeout=self._limits.max_wait_s):
            try:
                with self._freed:
                    left_s = max(0, until_s - time.monotonic())
                    is_free = self._freed.wait_for(lambda: self._free_pixels >= pixels, left_s)
                    self._free_pixels -= pixels * is_free
            finally:
                self._turn.release()
        if not is_free:
            raise DeadlineExceededError("not decoded in time: larger images are before it")
        try:
            yield
        finally:
            with self._freed:
                self._free_pixels += pixels
                self._freed.notify_all()


def _known(formats: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the formats that Pillow looks up by name."""
    Image.init()
    if formats is None:
        return None
    if unknown := set(formats) - Image.OPEN.keys() - _WITHOUT_ENTRY:
        raise ConfigurationError(
            f"IMAGE_FORMATS: no format is called {', '.join(sorted(unknown))}; Pillow knows "
            f"{', '.join(sorted(Image.OPEN))}"
        )
    if not any(map(_is_read, formats)):
        raise ConfigurationError(
            f"IMAGE_FORMATS: no decoder of {', '.join(formats)} is installed; for HEIF: pip "
            "install pillow-heif"
        )
    return tuple(name for name in formats if name in Image.OPEN)


def _is_read(name: str) -> bool:
    """Return whether the decoder of a format is installed."""
    return name in Image.OPEN or (name == "MPO" and "JPEG" in Image.OPEN)


def _without_data_prefix(text: str) -> str:
    text = text.lstrip()
    if text[:5].lower() != "data:":
        return text
    header, comma, payload = text.partition(",")
    if not comma or not header.lower().endswith(";base64"):
        raise InvalidInputError(
            "a data: URI must have the form data:image/...;base64,...", "base64"
        )
    return payload


def _decode_unusual(payload: str) -> bytes:
    # On bytes: on strings it took 9 s for 90 MB, while no other thread ran.
    try:
        compact = payload.encode("ascii").translate(_URL_SAFE_TO_STANDARD, _WHITESPACE).rstrip(b"=")
        return pybase64.b64decode(compact + b"=" * (-len(compact) % 4), validate=True)
    except ValueError as error:
        raise InvalidInputError(
            "not base64; expected the base64 of an image file", "base64"
        ) from error


def _check_size(image: Image.Image, limits: ImageLimits) -> None:
    short, long = sorted(image.size)
    if short == 0:
        raise InvalidInputError(f"{image.width}x{image.height} pixels are no image", "pixels")
    side = limits.shorter_side_px
    for pixels, when in ((short * long, ""), (side * (side * long // short), ", once scaled,")):
        if pixels > limits.max_pixels:
            raise RequestTooLargeError(
                f"{image.width}x{image.height} pixels{when} are more than the "
                f"{limits.max_pixels} allowed",
                "pixels",
            )

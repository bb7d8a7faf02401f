"""From the base64 of a request to a decoded image in its own mode, with every limit on the way.

    base64 -> decode_base64 -> bytes -> open_image -> PIL image

`decode_base64` is cheap and runs where the request is read; `open_image` is work for a pool. It
knows no model: a family converts the mode when its own pixels want it.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import pybase64
from PIL import Image, UnidentifiedImageError

from inference.errors import InvalidInputError

# Limits are checked here, before anything is decoded, and with a sentence of our own.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns of oddities in files that it then reads; a client's file is no reason for a log line.
warnings.filterwarnings("ignore", module=r"PIL\.")

_URL_SAFE_TO_STANDARD = str.maketrans("-_", "+/")


@dataclass(frozen=True)
class ImageLimits:
    """What an image may be.

    Attributes:
        max_pixels: width x height of the picture as it is stored.
        formats: names of Pillow's formats that are accepted, None for all that it reads.
    """

    max_pixels: int
    formats: tuple[str, ...] | None = None


def decode_base64(text: str) -> bytes:
    """Decode base64, strictly.

    Accepted beside the plain form: a `data:...;base64,` prefix, whitespace, the URL-safe alphabet
    and missing padding. Junk is refused, where the reference skips it and answers for the rest.

    Raises:
        InvalidInputError: the text is not base64, or holds nothing.
    """
    payload = _without_data_prefix(text)
    try:
        raw = pybase64.b64decode(payload, validate=True)
    except ValueError:
        raw = _decode_unusual(payload)
    if not raw:
        raise InvalidInputError("is empty; expected the base64 of an image file")
    return raw


def open_image(raw: bytes, limits: ImageLimits) -> Image.Image:
    """Decode an image file; of an animation, the first frame.

    Raises:
        InvalidInputError: it is not an image, is broken, or is beyond the limits.
    """
    try:
        image = Image.open(io.BytesIO(raw), formats=limits.formats)
        _check_size(image, limits)
        image.load()  # `open` is lazy: a broken file must fail here, not in the model
    except InvalidInputError:
        raise
    except Exception as error:
        raise InvalidInputError(_why_unreadable(error, limits)) from error
    return image


def _without_data_prefix(text: str) -> str:
    if text[:5].lower() != "data:":
        return text
    header, comma, payload = text.partition(",")
    if not comma or not header.lower().endswith(";base64"):
        raise InvalidInputError("a data: URI must have the form data:image/...;base64,...")
    return payload


def _decode_unusual(payload: str) -> bytes:
    compact = "".join(payload.split()).translate(_URL_SAFE_TO_STANDARD).rstrip("=")
    try:
        return pybase64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except ValueError as error:
        raise InvalidInputError("not base64; expected the base64 of an image file") from error


def _check_size(image: Image.Image, limits: ImageLimits) -> None:
    if image.width * image.height > limits.max_pixels:
        raise InvalidInputError(
            f"{image.width}x{image.height} pixels are more than the {limits.max_pixels} allowed"
        )


def _why_unreadable(error: Exception, limits: ImageLimits) -> str:
    if isinstance(error, UnidentifiedImageError):
        accepted = f" of an accepted format ({', '.join(limits.formats)})" if limits.formats else ""
        return f"not an image{accepted}"
    return f"a broken image: {str(error) or type(error).__name__}"

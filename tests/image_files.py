"""Small image files for tests, made on the spot."""

import base64
import io

from PIL import Image

from inference.images.decoder import ImageDecoder, ImageLimits

LIMITS = ImageLimits(max_bytes=1_000_000, max_pixels=1_000_000, shorter_side_px=32)
READER = ImageDecoder(LIMITS)


def file_of(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    """Encode an image."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def plain(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (8, 8)) -> bytes:
    """Return a PNG of one colour."""
    return file_of(Image.new("RGB", size, colour))


def base64_of(raw: bytes) -> str:
    """Encode bytes as a request holds them."""
    return base64.b64encode(raw).decode()

"""Reads an image's size from the beginning of its file, to estimate its cost.

It reads so few bytes that it may run on the event loop. If they do not contain the size, the size
is None.
"""

from __future__ import annotations

import io

from PIL import Image

# Number of bytes that are read: more than the headers of most files. Parsing takes a millisecond at
# most.
_BYTES = 1 << 16
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "JPEG2000")  # Pillow opens these lazily


def read_size(raw: bytes) -> tuple[int, int] | None:
    """Return (width, height) in pixels from a file's header; None if the header has no size."""
    head = raw[:_BYTES]
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _read_webp_size(head)
    try:
        with Image.open(io.BytesIO(head), formats=_FORMATS) as image:
            return image.size
    except Exception:  # noqa: BLE001 - the decoder will report the error
        return None


def _read_webp_size(head: bytes) -> tuple[int, int] | None:
    """Read the size of a WebP file, whose first chunk's kind tells the place of the size.

    Pillow is not used, as it would pass the whole file to libwebp.

    Source: https://developers.google.com/speed/webp/docs/riff_container and RFC 6386, 9.1.
    """
    kind, at = head[12:16], {b"VP8X": 24, b"VP8L": 21, b"VP8 ": 26}
    if kind not in at:
        return None
    values = int.from_bytes(head[at[kind] : at[kind] + 6], "little")
    if kind == b"VP8X":
        return (values & 0xFFFFFF) + 1, (values >> 24 & 0xFFFFFF) + 1
    if kind == b"VP8L":
        return (values & 0x3FFF) + 1, (values >> 14 & 0x3FFF) + 1
    return values & 0x3FFF, values >> 16 & 0x3FFF

"""The size of an image, from the beginning of its file: for an estimate, and no more.

It reads so little that the event loop may do it; what cannot be told from that is not told.
"""

from __future__ import annotations

import io

from PIL import Image

# More than the headers of most files; of one made of nothing but headers, a millisecond's work.
_BYTES = 1 << 16
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "JPEG2000")  # Pillow opens these lazily


def size_of(raw: bytes) -> tuple[int, int] | None:
    """Return the (width, height) that a file announces; None where its beginning does not tell."""
    head = raw[:_BYTES]
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _size_of_webp(head)
    try:
        with Image.open(io.BytesIO(head), formats=_FORMATS) as image:
            return image.size
    except Exception:  # noqa: BLE001 - whatever Pillow says of it, the decoder will say it again
        return None


def _size_of_webp(head: bytes) -> tuple[int, int] | None:
    """Read it where each kind of chunk has it; Pillow hands the whole file to libwebp.

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

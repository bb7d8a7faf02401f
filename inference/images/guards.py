"""Checks the bytes of image files, and rejects files that are too expensive to decode.

Pillow checks sizes late or not at all: it decodes the image of an ICO when it opens the file,
parses many headers byte by byte, and lets libjpeg pass over the whole image for every scan.
"""

from __future__ import annotations

import io
import re
import time

from PIL import Image, ImageFile, PngImagePlugin
from PIL.IcoImagePlugin import IcoFile

from errors import InvalidInputError

# Maximum processor time to parse a file, in seconds. A PNG of 50 MB with minimal chunks took 18 s.
MAX_PARSE_S = 5.0
_READS_BETWEEN_LOOKS = 64

# Cameras and programs write up to about 15 scans. Each costs a pass over the image, but few bytes:
# a file of 60 kB took 1.8 s, and 50 MB would take an hour. libtiff has the same limit.
MAX_JPEG_SCANS = 100
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\x01\xd0-\xd8])")
_START_OF_SCAN, _END_OF_IMAGE = b"\xda", b"\xd9"


class PatientFile(io.BytesIO):
    """A file in memory with a bound on the processor time of its reader."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self._reads = 0
        self._ends_s = time.thread_time() + MAX_PARSE_S

    def read(self, size: int | None = -1, /) -> bytes:
        """Read from the file.

        Raises:
            InvalidInputError: the reader's time is over.
        """
        self._reads += 1
        if self._reads % _READS_BETWEEN_LOOKS == 0 and time.thread_time() > self._ends_s:
            raise InvalidInputError(
                f"a broken image: it takes over {MAX_PARSE_S:g} s to read", "slow_image"
            )
        return super().read(size)


def is_icon(raw: bytes) -> bool:
    """Return whether Pillow would open a file as an ICO."""
    return raw.startswith(b"\0\0\1\0")


def image_in_icon(raw: bytes) -> Image.Image:
    """Return the image that Pillow would choose from an ICO, without decoding it.

    Raises:
        InvalidInputError: the ICO holds no image.
    """
    entries = IcoFile(PatientFile(raw)).entry
    if not entries:
        raise InvalidInputError("a broken image: an ICO without an image", "broken_image")
    return Image.open(PatientFile(raw[entries[0].offset :]), formats=("PNG", "DIB"))


class _Pixels(PngImagePlugin.PngStream):
    """A reader of PNG chunks that skips texts and colour profiles.

    Models do not need them, and Pillow refuses an image with more than 1 MB of them.
    """

    def _skip(self, pos: int, length: int) -> bytes:
        skipped: bytes = ImageFile._safe_read(self.fp, length)  # type: ignore[arg-type]
        return skipped

    chunk_iCCP = chunk_tEXt = chunk_zTXt = chunk_iTXt = _skip  # noqa: N815 - the PNG's own names


def skip_png_metadata() -> None:
    """Let Pillow skip the metadata of PNGs, in the whole process."""
    PngImagePlugin.PngStream = _Pixels  # type: ignore[misc]


def check_scans(image: Image.Image, raw: bytes) -> None:
    """Check the number of scans of a JPEG.

    Raises:
        InvalidInputError: the JPEG has too many scans.
    """
    if image.format not in {"JPEG", "MPO"}:
        return
    scans, at = 0, 2
    while marker := _JPEG_MARKER.search(raw, at):
        kind, at = marker[1], marker.end()
        if kind == _END_OF_IMAGE:  # of the first image: an MPO holds several
            return
        scans += kind == _START_OF_SCAN
        if scans > MAX_JPEG_SCANS:
            raise InvalidInputError(
                f"a broken image: a JPEG of more than {MAX_JPEG_SCANS} scans", "slow_image"
            )
        at += int.from_bytes(raw[at : at + 2], "big")

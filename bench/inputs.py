"""The inputs of requests: photo-like JPEGs and short texts, equal in every run, all distinct.

Images of a pool differ in their pixels. Two requests with the same image differ in a JPEG comment:
they cost the same, and no cache can answer them.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from inference.images.decoder import ImageLimits

SEED = 0
SENTENCES = 10  # of a passage
LIMITS = ImageLimits(max_bytes=50_000_000, max_pixels=100_000_000, shorter_side_px=224)
SMALL = (640, 480)  # width, height
SIZES = (SMALL, (1024, 768), (4000, 3000))
MEGAPIXELS_IN_A_POOL = 5

_NOISE = 9.5  # levels: a 640x480 file then has about 90 kB, as a photo of that size
_QUALITY = 85
_COMMENT_BYTES = 12
# Start of image, then a comment's marker and length: six bytes, so the comment of twelve bytes
# begins and ends at a base64 group.
_START = b"\xff\xd8"
_B64_HEAD = base64.b64encode(_START + b"\xff\xfe" + (2 + _COMMENT_BYTES).to_bytes(2, "big"))

# Each word is one token of CLIP's vocabulary.
_COLOURS = ["red", "blue", "green", "yellow", "black", "white", "brown", "grey"]
_THINGS = ["car", "dog", "cat", "house", "boat", "tree", "bird", "horse", "train", "chair", "cup",
           "book", "clock", "shoe", "hat", "flower"]  # fmt: skip
_PLACES = ["beach", "street", "forest", "garden", "kitchen", "river", "bridge", "mountain"]
_TIMES = ["morning", "evening", "night", "winter", "summer", "autumn", "spring", "rain"]
_FAR = 700_001  # between the numbers of the texts in a long text
_ODD = 5_039_393  # spreads neighbouring numbers over all the words
_LOOKS = ["old", "new", "small", "big", "bright", "dark", "quiet", "busy"]


@dataclass(frozen=True)
class Jpeg:
    """A JPEG file with a variable comment, so that copies have distinct bytes.

    Attributes:
        b64_rest: base64 of the file without its first marker.
    """

    b64_rest: bytes

    @classmethod
    def of(cls, file: bytes) -> Jpeg:
        """Split a JPEG file before its comment."""
        return cls(base64.b64encode(file.removeprefix(_START)))

    def numbered(self, number: int) -> bytes:
        """Return the base64 of the file with a number in its comment."""
        return _B64_HEAD + base64.b64encode(b"%012d" % number) + self.b64_rest


@cache
def jpegs(width: int, height: int) -> tuple[Jpeg, ...]:
    """Make a pool of images of one size; pools of smaller images are larger."""
    count = max(2, round(MEGAPIXELS_IN_A_POOL * 1e6 / (width * height)))
    rng = np.random.default_rng([SEED, width, height])
    return tuple(Jpeg.of(_photo_like(rng, width, height)) for _ in range(count))


def _photo_like(rng: np.random.Generator, width: int, height: int) -> bytes:
    """Draw blobs of colour with camera noise as a JPEG."""
    coarse = rng.integers(0, 256, (height // 48 + 2, width // 48 + 2, 3), dtype=np.uint8)
    blobs = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noise = rng.normal(0, _NOISE, (height, width, 1)).astype(np.float32)
    image = Image.fromarray(np.clip(blobs + noise, 0, 255).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def image_b64(size: tuple[int, int], number: int) -> bytes:
    """Return the base64 of image `number`; different numbers have different bytes."""
    pool = jpegs(*size)
    return pool[number % len(pool)].numbered(number)


def text(number: int) -> str:
    """Return a text of ten words; texts of numbers within 8 million are distinct."""
    number *= _ODD
    picked = []
    for words in (_COLOURS, _THINGS, _PLACES, _TIMES, _LOOKS, _THINGS, _COLOURS):
        number, index = divmod(number, len(words))
        picked.append(words[index])
    colour, thing, place, time, look, other, other_colour = picked
    return f"a {look} {colour} {thing} and a {other_colour} {other} {place} {time}"


def passage(number: int) -> str:
    """Return a text of ten sentences; texts of other numbers have none of them."""
    return " ".join(f"{text(SENTENCES * number + i).capitalize()}." for i in range(SENTENCES))


def long_text(number: int) -> str:
    """Return a text of over a hundred words, which fills CLIP's 77 positions."""
    return ", ".join(text(number + place * _FAR) for place in range(10))


# Functions from a number to a text, by the kind of a loop or a load.
WORDS = {"texts": text, "passages": passage}

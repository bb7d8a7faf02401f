"""The proof of a conversion: the original's vectors and those of what was made, for many inputs.

Whatever a family does that was not carried over shows here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from PIL import Image

from backends.embed import embed
from backends.model import Modality, Model, Preparation, Rows, Shaping, Tower
from errors import ConversionError

LEAST_COSINE, LENGTH_TOLERANCE = 0.999999, 1e-4

_MODES = ("RGB", "RGBA", "L")
# Of the pictures, each computed three times. They count one each, all 20 of them; in tiles of
# 512x512 pixels, of which two cores do about one a second, the first two count 14.
_MOST_COST = 20

_PROOF_TEXTS = (
    "a photo of a cat",
    "A Cat, sitting on a MAT; isn't it?",
    "",
    "  spaces\tand\nlines  ",
    "Größe, naïveté, Ελληνικά, кириллица, 日本語, हिन्दी, العربية",
    "emoji 😀👩‍👩‍👧 and signs: €, ½, ﬁ, №, <b>&amp;amp;</b>, snake_case, </s>, [SEP]",
    "3.14159 1,000,000 x=y*z #hashtag @name https://example.org/?q=1",
    "ΟΔΟΣ ΣΟΦΟΣ İstanbul STRASSE",
    " ".join(map(str, range(1500))),  # longer than any of these models reads
)


def prove(original: Model, made: Model) -> None:
    """Compare what both make of the same inputs, each alone and all in the batches that they form.

    Raises:
        ConversionError: the vectors differ.
    """
    for modality, tower in original.towers.items():
        for shaping in _shapings(tower):
            _prove(modality, tower, made.towers[modality], shaping)


def _prove(modality: Modality, original: Tower, made: Tower, shaping: Shaping) -> None:
    contents = _PROOF_INPUTS[modality](original.preparation)
    expected = embed(original, contents, shaping)
    compare(f"{modality}s", expected, embed(made, contents, shaping))
    alone = [embed(made, [content], shaping) for content in contents]
    compare(f"{modality}s", expected, np.concatenate(alone))


def _shapings(tower: Tower) -> set[Shaping]:
    """Return what can be asked for of the network itself."""
    return {tower.preparation.reduce(Shaping(pooling)) for pooling in ("", "cls")}


def compare(what: str, expected: Rows, given: Rows) -> None:
    """Compare vectors, each [n, dimensions].

    Raises:
        ConversionError: they differ by more than this project promises.
    """
    lengths = np.linalg.norm(expected, axis=1), np.linalg.norm(given, axis=1)
    products = np.einsum("ij,ij->i", expected.astype(np.float64), given)
    both_empty = (lengths[0] == 0) & (lengths[1] == 0)  # a tower may give nothing a vector of 0
    cosines = np.where(both_empty, 1, products / np.maximum(lengths[0] * lengths[1], 1e-30))
    apart = np.abs(lengths[0] - lengths[1]) / np.maximum(lengths[0], 1)
    if not (cosines.min() >= LEAST_COSINE and apart.max() <= LENGTH_TOLERANCE):
        raise ConversionError(
            f"the converted model's {what} differ from the original's: cosine {cosines.min():.7f}, "
            f"lengths by {apart.max():.1g}"
        )


def _proof_pictures(preparation: Preparation) -> Sequence[Image.Image]:
    """Draw noise and soft colours in many shapes and modes; always the same, as many as pay."""
    pictures = _drawn()
    costs = accumulate(preparation.prepare(picture, Shaping()).cost for picture in pictures)
    return [picture for picture, cost in zip(pictures, costs, strict=True) if cost <= _MOST_COST]


def _drawn() -> list[Image.Image]:
    random = np.random.default_rng(0)
    shapes: list[Image.Image] = []
    for number, (width, height) in enumerate(
        [(900, 200), (300, 900), (640, 480), (64, 48), (223, 225), (500, 501)]
    ):
        grain = (height, width) if number % 2 else (6, 8)
        values = random.integers(0, 256, (*grain, 4), dtype=np.uint8)
        shapes.append(Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC))
    in_modes = [
        picture.convert(_MODES[(number + turn) % len(_MODES)])  # the first ones have them all
        for turn in range(len(_MODES))
        for number, picture in enumerate(shapes)
    ]
    return [*in_modes, in_modes[0].quantize(16), in_modes[0].convert("1")]


_PROOF_INPUTS: dict[Modality, Callable[[Preparation], Sequence[Any]]] = {
    "text": lambda _preparation: _PROOF_TEXTS,
    "image": _proof_pictures,
}

"""The proof of a conversion: the original's vectors and those of what was made, for many inputs.

Whatever a family does that was not carried over shows here. What is made rougher on purpose, as in
8 bits, is compared by fewer inputs and another measure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from backends.embed import embed
from backends.model import Modality, Model, Preparation, Rows, Shaping, Tower
from errors import ConversionError

LEAST_COSINE, LENGTH_TOLERANCE = 0.999999, 1e-4
# Of 8 bits, the median and the worst. all-MiniLM-L6-v2, which keeps 0.97 of its neighbours, has
# 0.9987 here, and 0.992 for the empty text; most others 0.9996. A tower with outliers that 8 bits
# do not hold is far below.
LEAST_ROUGH_MEDIAN, LEAST_ROUGH_COSINE = 0.998, 0.98

_MODES = ("RGB", "RGBA", "L")
# Of the pictures, each computed three times. They count one each, all 20 of them; in tiles of
# 512x512 pixels, of which two cores do about one a second, the first two count 14.
_MOST_COST = 20
_ROUGH_COST = 6  # of those compared in 8 bits, once by either; one in tiles has 5 or more
_NEAREST = 3

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


def embed_few(model: Model) -> dict[Modality, Rows]:
    """Embed a few inputs of each modality, in batches: what `compare_rough` compares."""
    return {
        modality: embed(tower, _PROOF_INPUTS[modality](tower.preparation, _ROUGH_COST))
        for modality, tower in model.towers.items()
    }


def compare_rough(exact: Mapping[Modality, Rows], rough: Mapping[Modality, Rows]) -> str:
    """Compare what `embed_few` gave of a model and of the same in 8 bits; tell it in a sentence.

    How many neighbours stay is told and not judged: it says something of trained models only.

    Raises:
        ConversionError: the vectors differ by more than 8 bits cost.
    """
    told = []
    for modality, expected in exact.items():
        cosines = _cosines(expected, rough[modality])
        median, worst = float(np.median(cosines)), cosines.min()
        if not (median >= LEAST_ROUGH_MEDIAN and worst >= LEAST_ROUGH_COSINE):
            raise ConversionError(
                f"in 8 bits this model's {modality}s differ too much from those in float32: cosine "
                f"{median:.4f} in the median, {worst:.4f} at worst"
            )
        told.append(
            f"{modality}s have a cosine of {median:.4f} to float32, {worst:.4f} at worst, and "
            f"{_kept(expected, rough[modality]):.2f} of the {_NEAREST} nearest"
        )
    return "; ".join(told)


def _kept(expected: Rows, given: Rows) -> float:
    """Return of the nearest of each vector the share that is still there."""
    nearest = [
        np.argsort(-(unit @ unit.T) + 3 * np.eye(len(unit)))[:, :_NEAREST]
        for unit in (
            rows / np.maximum(_lengths(rows), 1e-30)[:, None] for rows in (expected, given)
        )
    ]
    return float(np.mean([np.isin(one, two).mean() for one, two in zip(*nearest, strict=True)]))


def _prove(modality: Modality, original: Tower, made: Tower, shaping: Shaping) -> None:
    contents = _PROOF_INPUTS[modality](original.preparation, _MOST_COST)
    expected = embed(original, contents, shaping)
    compare(f"{modality}s", expected, embed(made, contents, shaping))
    alone = [embed(made, [content], shaping) for content in contents]
    compare(f"{modality}s", expected, np.concatenate(alone))


def _shapings(tower: Tower) -> set[Shaping]:
    """Return what can be asked for: the network's poolings, and the prompts."""
    asked = (Shaping(), Shaping("cls"), Shaping(task="query"))
    return {tower.preparation.reduce(shaping) for shaping in asked}


def compare(what: str, expected: Rows, given: Rows) -> None:
    """Compare vectors, each [n, dimensions].

    Raises:
        ConversionError: they differ by more than this project promises.
    """
    cosines, length = _cosines(expected, given), _lengths(expected)
    apart = np.abs(length - _lengths(given)) / np.maximum(length, 1)
    if not (cosines.min() >= LEAST_COSINE and apart.max() <= LENGTH_TOLERANCE):
        raise ConversionError(
            f"the converted model's {what} differ from the original's: cosine {cosines.min():.7f}, "
            f"lengths by {apart.max():.1g}"
        )


def _lengths(rows: Rows) -> Rows:
    lengths: Rows = np.linalg.norm(rows, axis=1)
    return lengths


def _cosines(expected: Rows, given: Rows) -> npt.NDArray[np.float64]:
    products = np.einsum("ij,ij->i", expected.astype(np.float64), given)
    lengths = _lengths(expected), _lengths(given)
    both_empty = (lengths[0] == 0) & (lengths[1] == 0)  # a tower may give nothing a vector of 0
    return np.where(both_empty, 1, products / np.maximum(lengths[0] * lengths[1], 1e-30))


def _proof_pictures(preparation: Preparation, most: int) -> Sequence[Image.Image]:
    """Draw noise and soft colours in many shapes and modes; always the same, as many as pay."""
    pictures = _drawn()
    costs = accumulate(preparation.prepare(picture, Shaping()).cost for picture in pictures)
    return [picture for picture, cost in zip(pictures, costs, strict=True) if cost <= most]


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


_PROOF_INPUTS: dict[Modality, Callable[[Preparation, int], Sequence[Any]]] = {
    "text": lambda _preparation, _most: _PROOF_TEXTS,
    "image": _proof_pictures,
}

"""The proof of a conversion: the original's vectors or logits beside those of what was made.

Whatever a family does that was not carried over shows here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from backends.embed import embed
from backends.model import EncodeParams, Modality, Model, Rows, Tower
from backends.parity_inputs import proof_inputs
from backends.similarity import cosines, lengths
from errors import ConversionError

LEAST_COSINE, LENGTH_TOLERANCE = 0.999999, 1e-4
SCORE_TOLERANCE = 1e-4  # of a logit; of one above 1, as a share of it

# Of the images, each computed three times. They count one each, all 20 of them; in tiles of
# 512x512 pixels, of which two cores do about one a second, the first two count 14.
_MOST_COST = 20


def prove(original: Model, made: Model) -> None:
    """Compare what both make of the same inputs, each alone and all in the batches that they form.

    Raises:
        ConversionError: the vectors differ.
    """
    for modality, tower in original.towers.items():
        for params in _all_params(tower):
            _prove(modality, tower, made.towers[modality], params)


def _prove(modality: Modality, original: Tower, made: Tower, params: EncodeParams) -> None:
    contents = proof_inputs(modality, original, _MOST_COST)
    check: Callable[[Rows, Rows], None] = (
        compare_logits if modality == "pair" else partial(compare, f"{modality}s")
    )
    expected = embed(original, contents, params)
    check(expected, embed(made, contents, params))
    check(expected, embed(made, contents, params, alone=True))


def _all_params(tower: Tower) -> set[EncodeParams]:
    """Return what can be asked for: the network's poolings, and the prompts."""
    asked = (EncodeParams(), EncodeParams("cls"), EncodeParams(task="query"))
    return {tower.processor.resolve(params) for params in asked}


def compare(what: str, expected: Rows, given: Rows) -> None:
    """Compare vectors, each [n, dimensions].

    Raises:
        ConversionError: they differ by more than this project promises.
    """
    found, length = cosines(expected, given), lengths(expected)
    apart = np.abs(length - lengths(given)) / np.maximum(length, 1)
    if not (found.min() >= LEAST_COSINE and apart.max() <= LENGTH_TOLERANCE):
        raise ConversionError(
            f"the converted model's {what} differ from the original's: cosine {found.min():.7f}, "
            f"lengths by {apart.max():.1g}"
        )


def compare_logits(expected: Rows, given: Rows) -> None:
    """Compare logits of pairs, each [n, 1].

    Raises:
        ConversionError: they differ by more than this project promises.
    """
    apart = np.abs(expected - given) / np.maximum(np.abs(expected), 1)
    if not apart.max() <= SCORE_TOLERANCE:
        raise ConversionError(
            f"the converted model's scores differ from the original's by {apart.max():.1g}"
        )

"""The parity check: compares a converted model's vectors or logits with the original model's.

It detects whether the conversion has lost a step of the preprocessing or of the network.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from backends.embed import embed
from backends.model import EncodeParams, Modality, Model, Rows, Tower
from backends.parity_inputs import parity_inputs
from backends.similarity import cosines, lengths
from errors import ConversionError

MIN_COSINE, LENGTH_TOLERANCE = 0.999999, 1e-4
SCORE_TOLERANCE = 1e-4  # absolute error of a logit up to 1, relative error of a larger logit

# Maximum cost of the test images, each of which is computed three times. All 20 images cost 1 each
# for most models. For a model with tiles of 512x512 pixels, the first two images cost 14; two cores
# compute about one tile a second.
_MAX_COST = 20


def check_parity(original: Model, made: Model) -> None:
    """Compute the same inputs with both models, alone and in batches, and compare the results.

    Raises:
        ConversionError: vectors or logits differ by more than the tolerance.
    """
    for modality, tower in original.towers.items():
        asked = (EncodeParams(), EncodeParams("cls"), EncodeParams(task="query"))
        for params in {tower.processor.resolve(params) for params in asked}:
            _check_tower(modality, tower, made.towers[modality], params)


def _check_tower(modality: Modality, original: Tower, made: Tower, params: EncodeParams) -> None:
    contents = parity_inputs(modality, original, _MAX_COST)
    check: Callable[[Rows, Rows], None] = (
        compare_logits if modality == "pair" else partial(compare, f"{modality}s")
    )
    expected = embed(original, contents, params)
    check(expected, embed(made, contents, params))
    check(expected, embed(made, contents, params, alone=True))


def compare(what: str, expected: Rows, given: Rows) -> None:
    """Compare expected and given vectors, each array [n, dimensions] float32.

    Raises:
        ConversionError: they differ by more than the tolerance.
    """
    found, length = cosines(expected, given), lengths(expected)
    apart = np.abs(length - lengths(given)) / np.maximum(length, 1)
    if not (found.min() >= MIN_COSINE and apart.max() <= LENGTH_TOLERANCE):
        raise ConversionError(
            f"the converted model's {what} differ from the original's: cosine {found.min():.7f}, "
            f"lengths by {apart.max():.1g}"
        )


def compare_logits(expected: Rows, given: Rows) -> None:
    """Compare expected and given logits of pairs, each array [n, 1] float32.

    Raises:
        ConversionError: they differ by more than the tolerance.
    """
    apart = np.abs(expected - given) / np.maximum(np.abs(expected), 1)
    if not apart.max() <= SCORE_TOLERANCE:
        raise ConversionError(
            f"the converted model's scores differ from the original's by {apart.max():.1g}"
        )

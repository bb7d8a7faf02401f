"""The quantization check: compares a model's results in int8 and in float32.

Its tolerance is larger than that of the parity check.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from backends.embed import embed
from backends.model import Modality, Model, Rows
from backends.parity_inputs import parity_inputs
from backends.similarity import cosines, recall, same_order, similarity
from errors import ConversionError

# Lowest accepted median cosine, and lowest accepted single cosine. all-MiniLM-L6-v2, which keeps
# 0.97 of its neighbours, has a median of 0.9989, and a cosine of 0.993 for the empty text. Most
# other models have 0.9996. A tower with outliers that int8 cannot represent is far below.
MIN_MEDIAN, MIN_COSINE = 0.998, 0.98
# Highest accepted median change and single change of logits, as a share of their standard
# deviation. all-MiniLM-L6-v2 with random heads, whose logits are close together, has medians of
# 0.07 to 0.09, and a largest change of 0.3.
MAX_MEDIAN_SHIFT, MAX_SHIFT = 0.125, 0.5

_MAX_COST = 6  # maximum cost of the images; an image in tiles costs 5 or more
_NEAREST = 3


def embed_few(model: Model) -> dict[Modality, Rows]:
    """Embed a few inputs of each modality, for `compare_rough`."""
    return {
        modality: embed(tower, parity_inputs(modality, tower, _MAX_COST))
        for modality, tower in model.towers.items()
    }


def compare_rough(exact: Mapping[Modality, Rows], rough: Mapping[Modality, Rows]) -> str:
    """Compare the results of `embed_few` in float32 and in int8; return a sentence for the log.

    The shares of kept neighbours and of kept order are reported but not checked, as they are
    meaningful for trained models only.

    Raises:
        ConversionError: the vectors or scores differ by more than int8 usually costs.
    """
    return "; ".join(
        _compare_logits(expected[:, 0], rough[modality][:, 0])
        if modality == "pair"
        else _compare_vectors(f"{modality}s", expected, rough[modality])
        for modality, expected in exact.items()
    )


def _compare_vectors(modality: str, expected: Rows, given: Rows) -> str:
    found = cosines(expected, given)
    median, worst = float(np.median(found)), found.min()
    if not (median >= MIN_MEDIAN and worst >= MIN_COSINE):
        raise ConversionError(
            f"in int8 this model's {modality} differ too much from those in float32: cosine "
            f"{median:.4f} in the median, {worst:.4f} at worst"
        )
    kept = recall(similarity(expected), similarity(given), _NEAREST)
    return (
        f"{modality} have a median cosine of {median:.4f} to float32, {worst:.4f} at worst, and "
        f"keep {kept:.2f} of their {_NEAREST} nearest neighbours"
    )


def _compare_logits(expected: Rows, given: Rows) -> str:
    shifts = np.abs(expected - given) / max(expected.std(), np.finfo(np.float32).tiny)
    median, worst = float(np.median(shifts)), shifts.max()
    if not (median <= MAX_MEDIAN_SHIFT and worst <= MAX_SHIFT):
        raise ConversionError(
            "in int8 this model's scores differ too much from those in float32: by "
            f"{median:.3f} of their standard deviation in the median, {worst:.3f} at worst"
        )
    return (
        f"scores differ from float32 by {median:.3f} of their standard deviation, {worst:.3f} at "
        f"worst, and {same_order(expected, given):.3f} of all pairs keep their order"
    )

"""The proof of 8 bits: how near a model in float32 they stay, which is rougher on purpose."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from backends.embed import embed
from backends.model import Modality, Model, Rows
from backends.parity_inputs import proof_inputs
from backends.similarity import cosines, recall, same_order, similarity
from errors import ConversionError

# The median and the worst cosine. all-MiniLM-L6-v2, which keeps 0.97 of its neighbours, has 0.9989
# here, and 0.993 for the empty text; most others 0.9996. A tower with outliers that 8 bits do not
# hold is far below.
LEAST_MEDIAN, LEAST_COSINE = 0.998, 0.98
# The same of logits: how far they move, as a share of their standard deviation. The body of
# all-MiniLM-L6-v2 with random heads, whose logits are close together, has 0.07 to 0.09 and 0.3.
MOST_MEDIAN_SHIFT, MOST_SHIFT = 0.125, 0.5

_MOST_COST = 6  # of the images, embedded once by either; one in tiles has 5 or more
_NEAREST = 3


def embed_few(model: Model) -> dict[Modality, Rows]:
    """Embed a few inputs of each modality, in batches: what `compare_rough` compares."""
    return {
        modality: embed(tower, proof_inputs(modality, tower, _MOST_COST))
        for modality, tower in model.towers.items()
    }


def compare_rough(exact: Mapping[Modality, Rows], rough: Mapping[Modality, Rows]) -> str:
    """Compare what `embed_few` gave of a model and of the same in 8 bits; tell it in a sentence.

    How many neighbours stay, and how much of the order, is told and not judged: it says something
    of trained models only.

    Raises:
        ConversionError: the vectors or scores differ by more than 8 bits cost.
    """
    return "; ".join(
        _compare_logits(expected[:, 0], rough[modality][:, 0])
        if modality == "pair"
        else _compare_vectors(f"{modality}s", expected, rough[modality])
        for modality, expected in exact.items()
    )


def _compare_vectors(what: str, expected: Rows, given: Rows) -> str:
    found = cosines(expected, given)
    median, worst = float(np.median(found)), found.min()
    if not (median >= LEAST_MEDIAN and worst >= LEAST_COSINE):
        raise ConversionError(
            f"in 8 bits this model's {what} differ too much from those in float32: cosine "
            f"{median:.4f} in the median, {worst:.4f} at worst"
        )
    kept = recall(similarity(expected), similarity(given), _NEAREST)
    return (
        f"{what} have a cosine of {median:.4f} to float32, {worst:.4f} at worst, and "
        f"{kept:.2f} of the {_NEAREST} nearest"
    )


def _compare_logits(expected: Rows, given: Rows) -> str:
    shifts = np.abs(expected - given) / max(expected.std(), np.finfo(np.float32).tiny)
    median, worst = float(np.median(shifts)), shifts.max()
    if not (median <= MOST_MEDIAN_SHIFT and worst <= MOST_SHIFT):
        raise ConversionError(
            "in 8 bits this model's scores differ too much from those in float32: by "
            f"{median:.3f} of their standard deviation in the median, {worst:.3f} at worst"
        )
    return (
        f"scores differ from float32 by {median:.3f} of their standard deviation, {worst:.3f} at "
        f"worst, and {same_order(expected, given):.3f} of two are in the same order"
    )

"""Similarity of vectors and recall of neighbours, which measure the loss by a lower precision."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from backends.model import Rows

_TINY = np.float32(1e-30)  # a vector may be 0


def lengths(rows: Rows) -> Rows:
    """Return the Euclidean lengths of vectors: [n, dim] -> [n]."""
    found: Rows = np.linalg.norm(rows, axis=1)
    return found


def unit(rows: Rows) -> Rows:
    """Scale each vector to length 1: [n, dim] float32. A zero vector stays zero."""
    divisors: Rows = np.maximum(lengths(rows), _TINY)
    scaled: Rows = rows / divisors[:, None]
    return scaled


def cosines(expected: Rows, given: Rows) -> npt.NDArray[np.float64]:
    """Return the cosine of each expected row and its given row, [n]; 1 if both rows are zero."""
    products = np.einsum("ij,ij->i", expected.astype(np.float64), given)
    of_both = lengths(expected), lengths(given)
    both_empty = (of_both[0] == 0) & (of_both[1] == 0)  # an empty input may have a zero vector
    return np.where(both_empty, 1, products / np.maximum(of_both[0] * of_both[1], _TINY))


def similarity(queries: Rows, items: Rows | None = None) -> Rows:
    """Return cosines [queries, items]; without items, among the queries, with -1 to itself."""
    of_others: Rows = unit(queries) @ unit(queries if items is None else items).T
    if items is None:
        np.fill_diagonal(of_others, -1)
    return of_others


def recall(exact: Rows, rough: Rows, nearest: int = 10) -> float:
    """Return the share of nearest neighbours in `exact` that stay nearest in `rough`.

    Both are cosines [queries, items].
    """
    found = [np.argsort(-cosines, axis=1)[:, :nearest] for cosines in (exact, rough)]
    kept = [np.isin(before, after).mean() for before, after in zip(*found, strict=True)]
    return float(np.mean(kept))


def same_order(exact: Rows, rough: Rows) -> float:
    """Return the share of score pairs that keep their order in `rough`, without equal scores."""
    signs = [np.sign(scores[:, None] - scores[None, :]) for scores in (exact, rough)]
    return float((signs[0] == signs[1])[signs[0] != 0].mean())

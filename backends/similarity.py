"""How alike vectors are, and which are nearest; of scores, which are more: what precision costs."""

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
    """Return the cosine of each vector to the one in its place, [n]; 1 where both are 0."""
    products = np.einsum("ij,ij->i", expected.astype(np.float64), given)
    of_both = lengths(expected), lengths(given)
    both_empty = (of_both[0] == 0) & (of_both[1] == 0)  # a tower may give nothing a vector of 0
    return np.where(both_empty, 1, products / np.maximum(of_both[0] * of_both[1], _TINY))


def similarity(queries: Rows, items: Rows | None = None) -> Rows:
    """Return cosines, [queries, items]; of queries to each other, and to themselves none."""
    of_others: Rows = unit(queries) @ unit(queries if items is None else items).T
    if items is None:
        np.fill_diagonal(of_others, -1)
    return of_others


def recall(exact: Rows, rough: Rows, nearest: int = 10) -> float:
    """Return of the nearest by exact likeness, [queries, items], the share that stays."""
    found = [np.argsort(-one, axis=1)[:, :nearest] for one in (exact, rough)]
    kept = [np.isin(one, two).mean() for one, two in zip(*found, strict=True)]
    return float(np.mean(kept))


def same_order(exact: Rows, rough: Rows) -> float:
    """Return of all two scores that are apart, [n] each, the share that stays in its order."""
    signs = [np.sign(one[:, None] - one[None, :]) for one in (exact, rough)]
    return float((signs[0] == signs[1])[signs[0] != 0].mean())

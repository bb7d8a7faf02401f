"""A model by itself, without queue, threads or memory: for build time, the proof and tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from backends.model import Embedded, Model, Pair, Prepared, Rows, Shaping, Tower
from backends.scores import ACTIVATIONS, Scores


def embed(tower: Tower, contents: Sequence[Any], shaping: Shaping | None = None) -> Rows:
    """Embed inputs, texts, decoded images or pairs, in the batches that they form: [n, dim]."""
    return np.stack([one.vector for one in embed_all(tower, contents, shaping)])


def score(model: Model, pairs: Sequence[Pair]) -> Scores:
    """Score pairs, in the batches that they form: [n] float32, on the model's own scale."""
    return ACTIVATIONS[model.info.activation](embed(model.towers["pair"], pairs)[:, 0])


def embed_all(
    tower: Tower, contents: Sequence[Any], shaping: Shaping | None = None
) -> list[Embedded]:
    """Embed inputs, and tell what was read of each.

    Raises:
        InvalidInputError: the model cannot read one of them.
    """
    preparation = tower.preparation
    shaping = preparation.reduce(shaping or Shaping())
    whole = [preparation.split(content, shaping) for content in contents]
    items = [preparation.prepare(part, shaping) for parts in whole for part in parts.items]
    embedded = iter(compute(tower, items))
    return [
        preparation.join([next(embedded) for _ in parts.items], parts.divisor) for parts in whole
    ]


def compute(tower: Tower, items: Sequence[Prepared]) -> list[Embedded]:
    """Compute prepared items, each bucket in a pass."""
    rows: list[Any] = [None] * len(items)
    for places in _batches(items):
        arrays = tower.preparation.collate([items[place] for place in places])
        for place, row in zip(places, tower.network(*arrays), strict=True):
            rows[place] = row if row.ndim == 1 else row[items[place].pick]
    return [
        Embedded(row, item.tokens, item.truncated) for row, item in zip(rows, items, strict=True)
    ]


def _batches(items: Sequence[Prepared]) -> list[list[int]]:
    by_bucket: dict[Hashable, list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        by_bucket[item.bucket, place if item.bucket is None else None].append(place)
    return list(by_bucket.values())

"""Computes vectors or scores directly, without queue, threads or cache.

It is used at build time, and by checks and tests.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from backends.model import (
    Arrays,
    EmbeddingResult,
    EncodeParams,
    Model,
    ModelInput,
    Network,
    NetworkInStages,
    Pair,
    Rows,
    Tower,
)
from backends.scores import ACTIVATIONS, Scores


def embed(
    tower: Tower,
    contents: Sequence[Any],
    params: EncodeParams | None = None,
    *,
    alone: bool = False,
) -> Rows:
    """Embed texts, decoded images or pairs like `embed_all`; return vectors [n, dim] float32."""
    return np.stack([one.vector for one in embed_all(tower, contents, params, alone=alone)])


def score(model: Model, pairs: Sequence[Pair]) -> Scores:
    """Score pairs in batches; return scores [n] float32, on the model's own scale."""
    return ACTIVATIONS[model.info.activation](embed(model.towers["pair"], pairs)[:, 0])


def embed_all(
    tower: Tower,
    contents: Sequence[Any],
    params: EncodeParams | None = None,
    *,
    alone: bool = False,
) -> list[EmbeddingResult]:
    """Embed inputs; return a vector and a token count for each.

    Items of one bucket share a batch; with `alone`, each input has a batch of its own.

    Raises:
        InvalidInputError: the model cannot read one of the inputs.
    """
    processor = tower.processor
    params = processor.resolve(params or EncodeParams())
    whole = [processor.split(content, params) for content in contents]
    items = [processor.prepare(part, params) for parts in whole for part in parts.items]
    embedded = iter(compute(tower, items, alone=alone))
    return [processor.join([next(embedded) for _ in parts.items], parts.divisor) for parts in whole]


def compute(
    tower: Tower, items: Sequence[ModelInput], *, alone: bool = False
) -> list[EmbeddingResult]:
    """Compute preprocessed items: one forward pass for each bucket, or for each item if `alone`."""
    rows: list[Any] = [None] * len(items)
    batches = [[place] for place in range(len(items))] if alone else _batches(items)
    collated = (tower.processor.collate([items[place] for place in batch]) for batch in batches)
    for batch, found in zip(batches, _passes(tower.network, collated), strict=True):
        for place, row in zip(batch, found, strict=True):
            rows[place] = row if row.ndim == 1 else row[items[place].pooling_index]
    return [
        EmbeddingResult(row, item.tokens, item.truncated)
        for row, item in zip(rows, items, strict=True)
    ]


def _passes(network: Network | NetworkInStages, batches: Iterable[Arrays]) -> Iterable[Rows]:
    if isinstance(network, NetworkInStages):
        return network.passes(list(batches))
    return (network(*arrays) for arrays in batches)


def _batches(items: Sequence[ModelInput]) -> list[list[int]]:
    by_bucket: dict[Hashable, list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        by_bucket[item.bucket, place if item.bucket is None else None].append(place)
    return list(by_bucket.values())

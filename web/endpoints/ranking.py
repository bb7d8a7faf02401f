"""Makes and ranks pairs of query and document, for all wire formats of rerankers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backends.model import EmbeddingResult, Pair
from backends.scores import Scores
from inference.request import EmbedInput


def make_pairs(query: str, documents: Sequence[str], field: str) -> list[EmbedInput]:
    """Return an input for each pair of query and document; all have the priority of queries."""
    return [
        EmbedInput(f"{field}[{i}]", "pair", Pair(query, text), is_query=True)
        for i, text in enumerate(documents)
    ]


def join_logits(answers: Sequence[EmbeddingResult]) -> Scores:
    """Return the logits of pairs, in the order of the documents."""
    return np.array([answer.vector[0] for answer in answers], np.float32)


def rank(logits: Scores) -> list[int]:
    """Return the indexes of documents, the best first; equal documents keep their order.

    The order follows the logits and not the scores, as the scores of large logits are equal.
    """
    places: list[int] = np.argsort(-logits, kind="stable").tolist()
    return places

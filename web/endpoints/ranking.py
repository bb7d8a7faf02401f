"""What all wires of rerankers have in common: pairs of a query and a document, and their order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from backends.model import EmbeddingResult, Pair
from backends.scores import Scores
from inference.request import EmbedInput


def pairs_of(query: str, documents: Sequence[str], field: str) -> list[EmbedInput]:
    """Pair a query with each document of a field; a reranker's requests are searches."""
    return [
        EmbedInput(f"{field}[{i}]", "pair", Pair(query, text), is_query=True)
        for i, text in enumerate(documents)
    ]


def logits_of(answers: Sequence[EmbeddingResult]) -> Scores:
    """Return the logits of pairs, in the order of the documents."""
    return np.array([answer.vector[0] for answer in answers], np.float32)


def ranking_of(logits: Scores) -> list[int]:
    """Return the places of the documents, the best first; equal ones stay in their order.

    It is made of logits, as the scores from 0 to 1 of large ones are equal.
    """
    places: list[int] = np.argsort(-logits, kind="stable").tolist()
    return places

"""From the logit of a pair to its score: what a reranker's activation makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from backends.model import Activation

Scores: TypeAlias = npt.NDArray[np.float32]  # [n]


def sigmoid(logits: Scores) -> Scores:
    """Map numbers to those from 0 to 1, in their order; the largest and the least become equal."""
    shrunk = np.exp(-np.abs(logits))  # of neither sign it overflows
    scores: Scores = np.where(logits >= 0, 1, shrunk) / (1 + shrunk)
    return scores


def identity(logits: Scores) -> Scores:
    """Leave numbers as they are."""
    return logits


ACTIVATIONS: Mapping[Activation, Callable[[Scores], Scores]] = {
    "identity": identity,
    "sigmoid": sigmoid,
}

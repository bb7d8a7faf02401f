"""Activations of rerankers, which turn the logit of a pair into its score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from backends.model import Activation

Scores: TypeAlias = npt.NDArray[np.float32]  # [n]


def sigmoid(logits: Scores) -> Scores:
    """Map logits to 0..1 and keep their order; very large logits become equal, as do very small."""
    shrunk = np.exp(-np.abs(logits))  # cannot overflow for any logit
    scores: Scores = np.where(logits >= 0, 1, shrunk) / (1 + shrunk)
    return scores


def identity(logits: Scores) -> Scores:
    """Return logits as scores."""
    return logits


ACTIVATIONS: Mapping[Activation, Callable[[Scores], Scores]] = {
    "identity": identity,
    "sigmoid": sigmoid,
}

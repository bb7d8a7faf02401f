"""A network in stages: each stage takes named arrays and returns named arrays for later stages.

Towers can share stages and their weights. A computation that is done only once, such as a parity
check, can have one stage in memory at a time, so a model may be larger than the memory. This module
imports no model library: arrays are numpy arrays or tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

V = TypeVar("V")

RESULT = "vectors"  # output of the last stage: [n, dimensions]

Step: TypeAlias = Callable[[Mapping[str, V]], Mapping[str, V]]


@dataclass(frozen=True)
class Stages(Generic[V]):
    """The stages of a tower's network, in order.

    Attributes:
        inputs: names of the collated arrays, in order.
        steps: for each stage, a function that loads the stage's weights, if needed, and returns
            the function that computes the stage.
    """

    inputs: Sequence[str]
    steps: Sequence[Callable[[], Step[V]]]

    def passes(self, batches: Sequence[Sequence[V]]) -> list[V]:
        """Compute all batches stage by stage, so that each stage's weights are loaded once."""
        values = [dict(zip(self.inputs, arrays, strict=True)) for arrays in batches]
        for bring in self.steps:
            step = bring()
            for known in values:
                known.update(step(known))
            del step  # free its memory before the next stage
        return [known[RESULT] for known in values]

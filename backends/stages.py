"""A network in stages: each takes named arrays and gives named arrays, which later ones read.

Towers can share stages, and so their weights. And what only has to be computed once, such as the
proof of a conversion, can have one stage in memory at a time, whatever the size of the model.
It imports no model library: arrays may be numpy's, or tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

V = TypeVar("V")

RESULT = "vectors"  # what the last stage gives: [n, dimensions]

Step: TypeAlias = Callable[[Mapping[str, V]], Mapping[str, V]]


@dataclass(frozen=True)
class Stages(Generic[V]):
    """What a tower computes, one stage after the other.

    Attributes:
        inputs: the names of what the input processor collates, in its order.
        steps: of each stage: brings its weights into memory where they are not, and returns what
            computes.
    """

    inputs: Sequence[str]
    steps: Sequence[Callable[[], Step[V]]]

    def passes(self, batches: Sequence[Sequence[V]]) -> list[V]:
        """Compute batches, each stage all of them: so its weights are needed once."""
        values = [dict(zip(self.inputs, arrays, strict=True)) for arrays in batches]
        for bring in self.steps:
            step = bring()
            for known in values:
                known.update(step(known))
            del step  # before the next one comes
        return [known[RESULT] for known in values]

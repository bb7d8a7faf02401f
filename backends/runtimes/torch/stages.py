"""Networks in stages, as torch modules: computes them and describes their conversion.

See `backends/stages.py`. Towers share stages: stages with equal names are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor, nn
from typing_extensions import override

from backends.model import Arrays
from backends.preprocessing.loaders import Described
from backends.stages import Stages, Step


@dataclass(frozen=True)
class TorchStage:
    """A stage of a network.

    Attributes:
        name: the name of its converted file.
        inputs: names of its inputs, in the order of the module's arguments.
        outputs: names of its outputs, in the order of the module's results.
        bring: function that loads the weights and returns the module.
        examples: example inputs, a batch of two items.
        shapes: the shape of each input, with -1 for axes of variable length.
    """

    name: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    bring: Callable[[], nn.Module]
    examples: Arrays
    shapes: Sequence[Sequence[int]]

    def step(self) -> Step[Tensor]:
        """Load the weights; return the function that computes this stage from named tensors."""
        return partial(self._compute, self.bring())

    def _compute(self, module: nn.Module, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        results = module(*(known[name] for name in self.inputs))
        return dict(zip(self.outputs, results, strict=True))


class StagedModule(nn.Module):
    """A network in stages: collated arrays -> [n, dim].

    Args:
        inputs: names of the collated arrays.
        stages: the stages in order.
    """

    def __init__(self, inputs: Sequence[str], stages: Sequence[TorchStage]) -> None:
        super().__init__()
        self._stages = Stages[Tensor](inputs, [stage.step for stage in stages])

    @override
    def forward(self, *arrays: Tensor) -> Tensor:
        return self.passes([arrays])[0]

    def passes(self, batches: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Compute all batches stage by stage."""
        return self._stages.passes(batches)


@dataclass(frozen=True)
class PortableStages:
    """Describes the conversion of a tower in stages.

    Attributes:
        inputs: names of the collated arrays.
        stages: the stages in order.
        describe: see `towers.Portable`.
        gives_way: whether other passes may run between its stages, as its own passes take long.
    """

    inputs: Sequence[str]
    stages: Sequence[TorchStage]
    describe: Callable[[Path], Described]
    gives_way: bool

"""Networks in stages, of torch: how they are computed, and how they are carried over.

See `backends/stages.py`. Stages are shared by towers; those of equal names are the same.
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
    """A step of a network.

    Attributes:
        name: of its file, once it is converted.
        inputs: the names of what it takes, in the order of its module's arguments.
        outputs: the names of what it gives, in the order of its module's results.
        bring: returns the module, with its weights.
        examples: arrays of a batch of two.
        shapes: of each of them, -1 where the length of an axis varies.
    """

    name: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    bring: Callable[[], nn.Module]
    examples: Arrays
    shapes: Sequence[Sequence[int]]

    def step(self) -> Step[Tensor]:
        """Bring the module, and return what computes by the names of its inputs."""
        return partial(self._compute, self.bring())

    def _compute(self, module: nn.Module, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        results = module(*(known[name] for name in self.inputs))
        return dict(zip(self.outputs, results, strict=True))


class StagedModule(nn.Module):
    """A network in stages: what its input processor collates -> [n, dim].

    Args:
        inputs: the names of what is collated.
        stages: in their order.
    """

    def __init__(self, inputs: Sequence[str], stages: Sequence[TorchStage]) -> None:
        super().__init__()
        self._stages = Stages[Tensor](inputs, [stage.step for stage in stages])

    @override
    def forward(self, *arrays: Tensor) -> Tensor:
        return self.passes([arrays])[0]

    def passes(self, batches: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Compute batches, each stage all of them."""
        return self._stages.passes(batches)


@dataclass(frozen=True)
class PortableStages:
    """How a tower in stages is carried over to another runtime.

    Attributes:
        inputs: the names of what its input processor collates.
        stages: in their order.
        describe: as in `towers.Portable`.
        gives_way: whether a pass lets others be computed between its stages: its own take long.
    """

    inputs: Sequence[str]
    stages: Sequence[TorchStage]
    describe: Callable[[Path], Described]
    gives_way: bool

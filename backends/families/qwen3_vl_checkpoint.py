"""Reads chosen weights of Qwen3-VL, so that a conversion has one stage in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from backends.weights import MISSING, NOT_FINITE, do_not_fit, misshapen, strange_prefix
from errors import ModelFolderError


class Checkpoint:
    """The weights in a snapshot's files, under the names of the model's parameters.

    Args:
        snapshot: the folder of the `*.safetensors` files.

    Raises:
        ModelFolderError: the folder holds no weights.
    """

    def __init__(self, snapshot: Path) -> None:
        self._files: dict[str, tuple[Path, str]] = {}
        for path in sorted(snapshot.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 - `file` is not a dictionary
                    self._files[name.removeprefix("model.")] = path, name
        if not self._files:
            raise ModelFolderError(f"{snapshot.absolute()} holds no weights (*.safetensors)")

    def drop_prefix(self, needed: AbstractSet[str]) -> None:
        """Remove the common prefix of the stored names, if this gives the needed names."""
        missing, unexpected = needed - self._files.keys(), self._files.keys() - needed
        if prefix := strange_prefix(missing, unexpected, "model."):
            self._files = {
                name.removeprefix(prefix).removeprefix("model."): stored
                for name, stored in self._files.items()
            }

    def read(self, wanted: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        """Read only the wanted tensors from the weight files.

        Args:
            wanted: names of tensors, with their expected shapes.

        Raises:
            ValueError: a tensor is missing, has another shape, or is not finite.
        """
        faults = [f"{name} {MISSING}" for name in wanted if name not in self._files]
        weights: dict[str, Tensor] = {}
        for path in sorted({path for path, _ in self._files.values()}):
            with safe_open(path, "pt") as file:
                for name, shape in wanted.items():
                    own_path, stored = self._files.get(name, (None, ""))
                    if own_path != path:
                        continue
                    weight = weights[name] = file.get_tensor(stored)
                    if weight.shape != torch.Size(shape):
                        faults.append(f"{name} {misshapen(weight.shape, shape)}")
                    elif not torch.stack(torch.aminmax(weight)).isfinite().all():
                        faults.append(f"{name} {NOT_FINITE}")
        if faults:
            raise ValueError(do_not_fit(faults))
        return weights

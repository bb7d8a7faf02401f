"""Eager torch: runs every family, on the CPU and on GPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backends.device_errors import translate_device_errors
from backends.model import Arrays, Model, Rows, Tower
from backends.runtimes.torch.devices import answers, gpu_memory
from backends.runtimes.torch.stages import StagedModule
from backends.runtimes.torch.towers import TorchModel


def model_of(loaded: TorchModel) -> Model:
    """Serve a family's model by eager torch."""
    device = loaded.info.device
    towers = {
        modality: Tower(tower.processor, _network_of(tower.module, device))
        for modality, tower in loaded.towers.items()
    }
    return Model(loaded.info, towers, partial(gpu_memory, device))


def _network_of(module: nn.Module, device: str) -> TorchNetwork:
    if isinstance(module, StagedModule):
        return StagedTorchNetwork(module, device)
    return TorchNetwork(module, device)


class TorchNetwork:
    """A module as a `Network`: arrays to its device, vectors back.

    On a GPU each has a stream of its own: a search's text waits for no images there either.

    Args:
        module: a function of tensors.
        device: where it computes.
    """

    def __init__(self, module: Callable[..., Tensor], device: str) -> None:
        self._module = module
        self._device = torch.device(device)
        self._cores = torch.get_num_threads()
        self._in_its_stream: Callable[[], AbstractContextManager[object]] = nullcontext
        if self._device.type == "cuda":
            stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            self._in_its_stream = partial(torch.cuda.stream, stream)
            torch.cuda.synchronize(self._device)  # the weights came by another stream
        self._checked = translate_device_errors(self._compute, partial(answers, device))

    def __call__(self, *arrays: np.ndarray[Any, Any]) -> Rows:
        """Compute: arrays of [n, ...] -> [n, dim] float32."""
        return self._checked(*arrays)

    @torch.inference_mode()
    def _compute(self, *arrays: np.ndarray[Any, Any]) -> Rows:
        # torch counts its threads for each thread that calls it.
        torch.set_num_threads(self._cores)
        with self._in_its_stream():
            vectors = self._module(*map(self._on_device, arrays))
            rows: Rows = vectors.float().cpu().numpy()
        return rows

    def _on_device(self, array: np.ndarray[Any, Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)


class StagedTorchNetwork(TorchNetwork):
    """A module in stages as a `NetworkInStages`."""

    def __init__(self, module: StagedModule, device: str) -> None:
        super().__init__(module, device)
        self._staged = module

    @torch.inference_mode()
    def passes(self, batches: Sequence[Arrays]) -> list[Rows]:
        """Compute batches, each stage all of them."""
        torch.set_num_threads(self._cores)
        with self._in_its_stream():
            found = self._staged.passes([[*map(self._on_device, arrays)] for arrays in batches])
            return [vectors.float().cpu().numpy() for vectors in found]

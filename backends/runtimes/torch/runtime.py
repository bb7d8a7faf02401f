"""The torch runtime: runs every family eagerly, on CPUs and GPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backends.device_errors import translate_device_errors
from backends.model import Arrays, Model, Rows, Tower
from backends.runtimes.torch.devices import answers, gpu_memory
from backends.runtimes.torch.stages import StagedModule
from backends.runtimes.torch.towers import TorchModel


def make_model(loaded: TorchModel) -> Model:
    """Return a family's model with networks that eager torch computes."""
    device = loaded.info.device
    towers = {}
    for modality, tower in loaded.towers.items():
        module = tower.module
        if isinstance(module, StagedModule):
            network: TorchNetwork = StagedTorchNetwork(module, device)
        else:
            network = TorchNetwork(module, device)
        towers[modality] = Tower(tower.processor, network)
    return Model(loaded.info, towers, partial(gpu_memory, device))


class TorchNetwork:
    """A torch module as a `Network`.

    On a GPU, each network has a CUDA stream of its own, so that texts do not wait for images.

    Args:
        module: the network, a function of tensors.
        device: the torch device that computes.
    """

    def __init__(self, module: Callable[..., Tensor], device: str) -> None:
        self._module = module
        self._device = torch.device(device)
        self._cores = torch.get_num_threads()
        self._in_its_stream: Callable[[], AbstractContextManager[object]] = nullcontext
        if self._device.type == "cuda":
            stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            self._in_its_stream = partial(torch.cuda.stream, stream)
            torch.cuda.synchronize(self._device)  # another stream copies the weights
        self._checked = translate_device_errors(self._compute, partial(answers, device))

    def __call__(self, *arrays: np.ndarray[Any, Any]) -> Rows:
        """Compute a batch: arrays [n, ...] -> [n, dim] float32."""
        return self._checked(*arrays)

    @torch.inference_mode()
    def _compute(self, *arrays: np.ndarray[Any, Any]) -> Rows:
        # torch's number of threads is a setting of each calling thread.
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
    """A torch module in stages as a `NetworkInStages`."""

    def __init__(self, module: StagedModule, device: str) -> None:
        super().__init__(module, device)
        self._staged = module

    @torch.inference_mode()
    def passes(self, batches: Sequence[Arrays]) -> list[Rows]:
        """Compute all batches stage by stage."""
        torch.set_num_threads(self._cores)
        with self._in_its_stream():
            found = self._staged.passes([[*map(self._on_device, arrays)] for arrays in batches])
            return [vectors.float().cpu().numpy() for vectors in found]

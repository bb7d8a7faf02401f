"""Eager torch: runs every family, on the CPU and on GPUs.

A family's module loads `Towers`, torch modules and what feeds them; this one computes them. It is
what a converted model is made of and proven against, and serves where there is none.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from typing_extensions import override

from backends.faults import translate_device_errors
from backends.folder import ModelFolder
from backends.inputs.pixels import Geometry, Preprocess, cut, to_pixels
from backends.inputs.resampling import Box, Pixels
from backends.inputs.tokens import TextRecipe
from backends.model import BackendOptions, Embeddings, ModelInfo
from backends.torch.devices import answers, gpu_memory
from backends.two_towers import TextTower, TwoTowerBackend

# torch warns that an image's memory is read-only; nothing here writes to it.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")

_TORCH_MODES = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}


@dataclass(frozen=True)
class Portable:
    """What a converted model has in place of the libraries of its family.

    Attributes:
        save_vocabulary: writes what tokenises into a folder, or raises ConversionError.
        texts: the text network as a module: ids [n, length], and a mask if the padding makes one.
    """

    geometry: Geometry
    save_vocabulary: Callable[[Path], None]
    recipe: TextRecipe
    texts: nn.Module


@dataclass(frozen=True)
class Towers:
    """A family's model, loaded.

    Attributes:
        preprocess: brings an image to [3, H, W] uint8.
        images: [n, 3, H, W] uint8 -> [n, dim].
        texts: the text tower, tokenised by the family's own library.
        portable: describes the model for another runtime, or raises ConversionError.
    """

    info: ModelInfo
    preprocess: Callable[[Image.Image], Pixels]
    images: nn.Module
    texts: TextTower
    portable: Callable[[], Portable]


def backend_of(towers: Towers) -> TwoTowerBackend:
    """Serve towers by eager torch."""
    return TwoTowerBackend(
        towers.info,
        towers.preprocess,
        TorchNetwork(towers.images, towers.info.device),
        towers.texts,
        partial(gpu_memory, towers.info.device),
    )


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

    def __call__(self, *inputs: Any) -> Embeddings:
        """Compute: arrays of [n, ...], or mappings to tensors -> [n, dim] float32."""
        return self._checked(*inputs)

    @torch.inference_mode()
    def _compute(self, *inputs: Any) -> Embeddings:
        # torch counts its threads for each thread that calls it.
        torch.set_num_threads(self._cores)
        with self._in_its_stream():
            vectors = self._module(*map(self._on_device, inputs))
            embeddings: Embeddings = vectors.float().cpu().numpy()
        return embeddings

    def _on_device(self, value: Any) -> Any:
        if isinstance(value, Mapping):  # the libraries have kinds of their own, not only dict
            return {name: self._on_device(part) for name, part in value.items()}
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value)
        if self._device.type == "cpu" or not isinstance(value, Tensor):
            return value
        return value.pin_memory().to(self._device, non_blocking=True)


def preprocess_of(geometry: Geometry) -> Preprocess:
    """Resize by torch itself where the geometry asks for its kernel: twice as fast as in numpy."""
    return Preprocess(geometry, resize_by_torch if geometry.kernel == "torch" else None)


def resize_by_torch(image: Image.Image, size: tuple[int, int], resample: int, box: Box) -> Pixels:
    """Resize as torchvision does, and so transformers' default image processors.

    Source: torchvision's `resize` hands uint8 images to this kernel as they are.
    """
    torch.set_num_threads(1)  # the pool that preprocesses is parallel by itself
    pixels = torch.from_numpy(to_pixels(image))
    mode = _TORCH_MODES[Image.Resampling(resample)]
    if pixels.shape[1:] != size:
        pixels = nn.functional.interpolate(pixels[None], size, mode=mode, antialias=True)[0]
    return cut(pixels.numpy(), box)


class Normalize(nn.Module):
    """The first step of an image tower: [n, 3, H, W] uint8 to the same in normalised float32."""

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], rescale_factor: float = 1 / 255
    ) -> None:
        super().__init__()
        # (pixel * rescale - mean) / std, with the rescaling folded into the constants
        self.register_buffer("_mean", torch.tensor(mean).view(-1, 1, 1) / rescale_factor)
        self.register_buffer("_std", torch.tensor(std).view(-1, 1, 1) / rescale_factor)

    @override
    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels.float() - self.get_buffer("_mean")) / self.get_buffer("_std")


class ImageTower(nn.Module):
    """An image tower: [n, 3, H, W] uint8 -> [n, dim].

    Args:
        normalize: its first step.
        network: normalised float32 -> [n, dim].
        parts: the modules whose weights the network uses.
        finish: what is done to the vectors, in float32.
    """

    def __init__(
        self,
        normalize: Normalize,
        network: Callable[[Tensor], Tensor],
        parts: nn.Module,
        finish: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.normalize, self.parts = normalize, parts
        self._network, self._finish = network, finish

    @override
    def forward(self, pixels: Tensor) -> Tensor:
        return self._finish(self._network(self.normalize(pixels)).float())


def unit_length(vectors: Tensor) -> Tensor:
    """Scale each vector to length 1."""
    return nn.functional.normalize(vectors, dim=-1)


def identity(vectors: Tensor) -> Tensor:
    """Return vectors at their own length, for families that do not normalise."""
    return vectors


def place(model: nn.Module, options: BackendOptions) -> Any:
    """Make a model ready for inference on its device and in its precision."""
    model = model.eval().requires_grad_(requires_grad=False)
    return model.to(options.device, dtype_of(options))


def dtype_of(options: BackendOptions) -> torch.dtype:
    """Return the precision as a type of torch."""
    dtype: torch.dtype = getattr(torch, options.precision)
    return dtype


def describe(
    folder: ModelFolder,
    options: BackendOptions,
    family: str,
    dimensions: int,
    image_px: int,
    networks: Sequence[nn.Module],
    config: Mapping[str, object],
) -> ModelInfo:
    """Describe what was loaded; networks that share weights count them once."""
    weights = {id(p): p.numel() for network in networks for p in network.parameters()}
    return ModelInfo(
        family=family,
        dimensions=dimensions,
        parameters=sum(weights.values()),
        runtime="torch",
        device=options.device,
        precision=options.precision,
        text_mode=options.text_mode,
        image_px=image_px,
        is_demo=folder.is_demo,
        config=config,
    )

"""The torch towers that a family loads from a model folder.

Either eager torch serves the towers (`runtime.py`), or the conversion job converts them and
compares the result with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from backends.folder import ModelFolder
from backends.model import Arrays, InputProcessor, Modality, ModelInfo, ModelOptions, TextMode
from backends.preprocessing.loaders import Described
from backends.preprocessing.pixels import Geometry
from backends.preprocessing.tokens import TextRecipe
from backends.runtimes.torch.stages import PortableStages
from errors import ConversionError

# For families whose vectors do not depend on the text mode.
EVERY_TEXT_MODE: tuple[TextMode, ...] = get_args(TextMode)


@dataclass(frozen=True)
class Portable:
    """Describes how to convert a tower, to serve it without its family's libraries.

    Attributes:
        module: the network: collated arrays -> vectors.
        examples: example inputs, a batch of two items.
        shapes: the shape of each input, with -1 for axes of variable length.
        describe: function that writes the input processor's files into a folder, and returns its
            description. It may raise ConversionError.
    """

    module: nn.Module
    examples: Arrays
    shapes: Sequence[Sequence[int]]
    describe: Callable[[Path], Described]


def portable_texts(
    module: nn.Module, recipe: TextRecipe, save_vocabulary: Callable[[Path], str]
) -> Portable:
    """Describe the conversion of a text tower.

    Args:
        module: network of ids [n, length], and a mask if the padding is masked -> [n, dim].
        recipe: normalization and padding.
        save_vocabulary: function that writes the tokenizer's files to a folder, and returns the
            kind of input processor for them.
    """
    padding = recipe.padding
    length = padding.longest if padding.to == "full" else 7
    arrays = 2 if padding.masked else 1
    return Portable(
        module,
        (np.ones((2, length), np.int64),) * arrays,
        [(-1, length if padding.to == "full" else -1)] * arrays,
        lambda folder: {"kind": save_vocabulary(folder), **recipe.as_json()},
    )


def portable_images(module: nn.Module, geometry: Geometry) -> Portable:
    """Describe the conversion of an image tower whose input images have one size.

    Raises:
        ConversionError: the size of the preprocessed images varies.
    """
    height, width = geometry.crop_px or geometry.size_px
    if not (height and width):
        raise ConversionError("its images keep their shape")
    return Portable(
        module,
        (np.zeros((2, 3, height, width), np.uint8),),
        [(-1, 3, height, width)],
        lambda _folder: {"kind": "pixels", **geometry.as_json()},
    )


@dataclass(frozen=True)
class TorchTower:
    """The tower of one modality of a family's model, as a torch module.

    Attributes:
        processor: the input processor, by the family's own library.
        module: the network: collated arrays -> [n, dim].
        portable: function that describes the conversion, or raises ConversionError.
    """

    processor: InputProcessor
    module: nn.Module
    portable: Callable[[], Portable | PortableStages]


@dataclass(frozen=True)
class TorchModel:
    """A family's model, loaded as torch modules.

    Attributes:
        info: facts about the model.
        towers: the towers by modality.
        text_modes: the text modes that the model serves, all with the same vectors.
    """

    info: ModelInfo
    towers: Mapping[Modality, TorchTower]
    text_modes: Sequence[TextMode]


def describe(
    folder: ModelFolder,
    options: ModelOptions,
    family: str,
    dimensions: int,
    image_px: int,
    networks: Sequence[nn.Module],
    config: Mapping[str, object],
) -> ModelInfo:
    """Return the info of a loaded model; shared weights are counted once."""
    weights = {id(p): p.numel() for network in networks for p in network.parameters()}
    return ModelInfo(
        family=family,
        dimensions=dimensions,
        parameters=sum(weights.values()),
        runtime="torch",
        device=options.device,
        precision=options.precision or "float32",
        text_mode=options.text_mode,
        image_px=image_px,
        is_demo=folder.is_demo,
        config=config,
    )


class Normalize(nn.Module):
    """The first layer of an image tower: uint8 pixels -> normalized float32.

    Args:
        mean: mean of each channel, or of each value of a patch.
        std: standard deviation of each channel, or of each value of a patch.
        rescale_factor: factor that scales pixels from 0..255 to the scale of `mean` and `std`.
        shape: shape of the constants for `mean` and `std`; the default fits pixels [n, 3, H, W].
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        rescale_factor: float = 1 / 255,
        shape: Sequence[int] = (-1, 1, 1),
    ) -> None:
        super().__init__()
        # (pixel * rescale - mean) / std, with the rescaling folded into the constants
        self.register_buffer("_mean", torch.tensor(mean).view(*shape) / rescale_factor)
        self.register_buffer("_std", torch.tensor(std).view(*shape) / rescale_factor)

    @override
    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels.float() - self.get_buffer("_mean")) / self.get_buffer("_std")


class ImageTower(nn.Module):
    """An image tower: [n, 3, H, W] uint8 -> [n, dim].

    Args:
        normalize: the tower's first layer.
        network: function: normalized pixels float32 -> vectors [n, dim].
        parts: the modules whose weights `network` uses.
        postprocess: function that is applied to the vectors, in float32.
    """

    def __init__(
        self,
        normalize: Normalize,
        network: Callable[[Tensor], Tensor],
        parts: nn.Module,
        postprocess: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.normalize, self.parts = normalize, parts
        self._network, self._postprocess = network, postprocess

    @override
    def forward(self, pixels: Tensor) -> Tensor:
        return self._postprocess(self._network(self.normalize(pixels)).float())


def normalize(vectors: Tensor) -> Tensor:
    """Scale each vector to length 1."""
    return nn.functional.normalize(vectors, dim=-1)


def identity(vectors: Tensor) -> Tensor:
    """Return vectors unchanged, for families that do not normalize."""
    return vectors


def place(model: nn.Module, options: ModelOptions) -> Any:
    """Move a model to its device and precision, in inference mode."""
    model = model.eval().requires_grad_(requires_grad=False)
    return model.to(options.device, torch_dtype(options))


def torch_dtype(options: ModelOptions) -> torch.dtype:
    """Return the torch dtype of the requested precision."""
    dtype: torch.dtype = getattr(torch, options.precision or "float32")
    return dtype

"""What a family's module makes of a model folder: towers of torch, texts' and images' alike.

They are served by eager torch (`runtime.py`), and are what a converted model is made of and proven
against.
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

# For a family that does not look at the text mode.
EVERY_TEXT_MODE: tuple[TextMode, ...] = get_args(TextMode)


@dataclass(frozen=True)
class Portable:
    """How a tower is carried over to another runtime, without the libraries of its family.

    Attributes:
        module: computes the vectors of the collated arrays; what its input processor makes.
        examples: arrays of a batch of two.
        shapes: of each of them, -1 where the length of an axis varies.
        describe: writes the files of the input processor into a folder, and returns its
            description.
            Raises ConversionError where that cannot be done.
    """

    module: nn.Module
    examples: Arrays
    shapes: Sequence[Sequence[int]]
    describe: Callable[[Path], Described]


def portable_texts(
    module: nn.Module, recipe: TextRecipe, save_vocabulary: Callable[[Path], str]
) -> Portable:
    """Describe a text tower for its conversion to another runtime.

    Args:
        module: ids [n, length], and a mask if the padding makes one -> [n, dim].
        recipe: how texts become ids.
        save_vocabulary: writes the tokenizer's files to a folder, and returns the kind of input
            processor that reads them.
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
    """Carry over a tower that reads pixels of one size.

    Raises:
        ConversionError: they have no one size.
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
    """One modality of a family's model.

    Attributes:
        processor: by the family's own library.
        module: the collated arrays -> [n, dim].
        portable: describes the tower for another runtime, or raises ConversionError.
    """

    processor: InputProcessor
    module: nn.Module
    portable: Callable[[], Portable | PortableStages]


@dataclass(frozen=True)
class TorchModel:
    """A family's model, loaded.

    Attributes:
        info: what is loaded.
        towers: one for each modality that it reads.
        text_modes: in all of which its texts have the same vectors.
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
    """Describe what was loaded; networks that share weights count them once."""
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
    """The first step of an image tower: uint8 to the same in normalized float32.

    Args:
        mean: of each channel, or of each value of a patch.
        std: the same.
        rescale_factor: what a level counts.
        shape: of the constants, to go with the pixels': [n, 3, H, W], unless it is said.
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
        normalize: its first step.
        network: normalized float32 -> [n, dim].
        parts: the modules whose weights the network uses.
        postprocess: what is done to the vectors, in float32.
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
    """Return vectors at their own length, for families that do not normalize."""
    return vectors


def place(model: nn.Module, options: ModelOptions) -> Any:
    """Make a model ready for inference on its device and in its precision."""
    model = model.eval().requires_grad_(requires_grad=False)
    return model.to(options.device, dtype_of(options))


def dtype_of(options: ModelOptions) -> torch.dtype:
    """Return the precision as a type of torch."""
    dtype: torch.dtype = getattr(torch, options.precision or "float32")
    return dtype

"""Splits an image into a grid of patches that is close to the image's aspect ratio.

SigLIP 2 NaFlex has a maximum number of patches, and interpolates its position embeddings to the
grid of an image. The interpolation is a product of two small matrices. These matrices are inputs
of the network, so images of different grids can share a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from backends.model import EncodeParams, ModelInput, ModelOptions
from backends.preprocessing.pixels import KERNELS, Kernel, Resize, in_rgb
from backends.preprocessing.resampling import Box, Floats, interpolation
from backends.preprocessing.single_part import SinglePart

_SMALLEST_SCALE, _LARGEST_SCALE, _SCALE_STEP = 1e-6, 100.0, 1e-5


class Grid(NamedTuple):
    """The rows and columns of patches of an image."""

    rows: int
    columns: int


@dataclass(frozen=True)
class Patching:
    """Parameters of splitting an image into patches; stored in `model.json`.

    Attributes:
        kernel: the library whose resizing is used.
        resample: the filter, as a number of `PIL.Image.Resampling`.
        patch_px: side of a patch, in pixels.
        max_patches: maximum number of patches of an image; it changes vectors.
        positions: side of the square grid of position embeddings.
    """

    kernel: Kernel
    resample: int
    patch_px: int
    max_patches: int
    positions: int

    def as_json(self) -> dict[str, object]:
        """Return the parameters as JSON types."""
        return asdict(self)

    def grid_for(self, image: Image.Image) -> Grid:
        """Return the largest grid with about an image's aspect ratio and at most `max_patches`.

        Source: transformers' `get_image_size_for_max_num_patches`, a binary search for the scale.
            The tolerance of the search changes the grid, so it is the same here.
        """
        low, high = _SMALLEST_SCALE, _LARGEST_SCALE
        while high - low >= _SCALE_STEP:
            middle = (low + high) / 2
            if math.prod(self._grid(image, middle)) <= self.max_patches:
                low = middle
            else:
                high = middle
        return self._grid(image, low)

    def _grid(self, image: Image.Image, scale: float) -> Grid:
        sides = (image.height, image.width)
        return Grid(*(max(1, math.ceil(side * scale / self.patch_px)) for side in sides))

    def places(self, grid: Grid) -> Floats:
        """Return interpolation weights of the position embeddings: [patches, 2 * side] float32.

        The interpolation is bilinear. The first half of each row has the weights of the embedding
        grid's rows, the second half the weights of its columns.
        """
        rows, columns = (
            interpolation(self.positions, side, Image.Resampling.BILINEAR) for side in grid
        )
        return np.hstack([rows.repeat(grid.columns, axis=0), np.tile(columns, (grid.rows, 1))])


class PatchProcessor(SinglePart):
    """Splits images into patches; all images are padded to `max_patches`, and share batches.

    Args:
        patching: parameters of the splitting.
        max_patches: the operator's value, which replaces `Patching.max_patches`; None keeps it.
        resize: another implementation of the resizing kernel; None for the default.
    """

    def __init__(
        self, patching: Patching, max_patches: int | None = None, resize: Resize | None = None
    ) -> None:
        self._patching = replace(patching, max_patches=max_patches or patching.max_patches)
        self.reading = "" if self._patching == patching else f"at most {max_patches} patches"
        self._resize = resize or KERNELS[patching.kernel]

    def estimate(self, _content: bytes) -> int:
        """Return 1, the cost of any image."""
        return 1

    def prepare(self, image: Image.Image, _params: EncodeParams) -> ModelInput:
        """Return patches, interpolation weights and a mask of an image.

        Patches: [max_patches, patch_px * patch_px * 3] uint8, channels last. Weights: as in
            `Patching.places`. Mask: [max_patches] int64, 1 for a patch and 0 for padding.
        """
        patching = self._patching
        grid = patching.grid_for(image)
        height, width = (side * patching.patch_px for side in grid)
        box = Box(0, 0, height, width)
        pixels = self._resize(in_rgb(image), (height, width), patching.resample, box)
        cut = pixels.reshape(3, grid.rows, patching.patch_px, grid.columns, patching.patch_px)
        patches = cut.transpose(1, 3, 2, 4, 0).reshape(grid.rows * grid.columns, -1)
        mask = np.ones(len(patches), np.int64)
        arrays = (patches, patching.places(grid), mask)
        padded = tuple(_padded(array, patching.max_patches) for array in arrays)
        return ModelInput(padded, bucket="patches", cost=1)


def _padded(array: np.ndarray[Any, Any], length: int) -> np.ndarray[Any, Any]:
    padded = np.zeros((length, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded


def read(_folder: Path, described: Mapping[str, Any], options: ModelOptions) -> PatchProcessor:
    """Load the input processor that a converted model describes."""
    return PatchProcessor(Patching(**described), options.max_num_patches)

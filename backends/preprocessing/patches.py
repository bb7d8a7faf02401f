"""From a decoded image to patches, in the grid that comes closest to the image's own shape.

A tower that reads them (SigLIP 2 NaFlex) sees at most so many patches of each image, whatever its
shape, and a table of positions that is resized to the image's grid. The resizing is a product of
two small matrices; they travel with the patches, so that images of all grids share a pass.
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
from backends.preprocessing.resampling import Box, Floats, Pixels, interpolation
from backends.preprocessing.single_part import SinglePart

_SMALLEST_SCALE, _LARGEST_SCALE, _SCALE_STEP = 1e-6, 100.0, 1e-5


class Grid(NamedTuple):
    """How many patches an image has on each side."""

    rows: int
    columns: int


@dataclass(frozen=True)
class Patching:
    """How an image becomes patches; it can be written as JSON.

    Attributes:
        kernel: whose arithmetic resizes.
        resample: the filter, as a number of `PIL.Image.Resampling`.
        patch_px: side of a patch.
        max_patches: most of them in an image; it decides the vectors.
        positions: side of the table of positions.
    """

    kernel: Kernel
    resample: int
    patch_px: int
    max_patches: int
    positions: int

    def as_json(self) -> dict[str, object]:
        """Describe it in JSON's types."""
        return asdict(self)

    def grid_for(self, image: Image.Image) -> Grid:
        """Return the largest grid of an image's shape.

        Source: transformers' `get_image_size_for_max_num_patches`, which looks for the scale by
        halving; where it stops is part of the grid.
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
        """Weigh the positions of the table for each patch: [patches, 2 * side] float32.

        The first half is of the table's rows, the second of its columns. The filter is the table's
        own, bilinear.
        """
        rows, columns = (
            interpolation(self.positions, side, Image.Resampling.BILINEAR) for side in grid
        )
        return np.hstack([rows.repeat(grid.columns, axis=0), np.tile(columns, (grid.rows, 1))])


class PatchProcessor(SinglePart):
    """Cuts images into patches; all are padded to the same number, and share passes.

    Args:
        patching: what is to be done.
        max_patches: what an operator says of `Patching.max_patches`.
        resize: another implementation of its kernel.
    """

    def __init__(
        self, patching: Patching, max_patches: int | None = None, resize: Resize | None = None
    ) -> None:
        self._patching = replace(patching, max_patches=max_patches or patching.max_patches)
        self.reading = "" if self._patching == patching else f"at most {max_patches} patches"
        self._resize = resize or KERNELS[patching.kernel]

    def estimate(self, _content: bytes) -> int:
        """Count an image."""
        return 1

    def prepare(self, image: Image.Image, _params: EncodeParams) -> ModelInput:
        """Return patches, places and a mask of a decoded image.

        The patches are [max_patches, patch_px * patch_px * 3] uint8, channels last; the places as
        in `Patching.places`; the mask is [max_patches] int64, 1 for a patch and 0 for padding.
        """
        patching = self._patching
        grid = patching.grid_for(image)
        height, width = (side * patching.patch_px for side in grid)
        box = Box(0, 0, height, width)
        pixels = self._resize(in_rgb(image), (height, width), patching.resample, box)
        patches = _cut(pixels, grid, patching.patch_px)
        mask = np.ones(len(patches), np.int64)
        arrays = (patches, patching.places(grid), mask)
        padded = tuple(_padded(array, patching.max_patches) for array in arrays)
        return ModelInput(padded, bucket="patches", cost=1)


def _cut(pixels: Pixels, grid: Grid, side: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    cut = pixels.reshape(3, grid.rows, side, grid.columns, side).transpose(1, 3, 2, 4, 0)
    return cut.reshape(grid.rows * grid.columns, -1)


def _padded(array: np.ndarray[Any, Any], length: int) -> np.ndarray[Any, Any]:
    padded = np.zeros((length, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded


def read(_folder: Path, described: Mapping[str, Any], options: ModelOptions) -> PatchProcessor:
    """Make the preparation that a converted model describes."""
    return PatchProcessor(Patching(**described), options.max_num_patches)

"""Splits a decoded image into blocks of patches, near the image's own size and aspect ratio.

Qwen3-VL resizes an image to a whole number of blocks of 2x2 patches. A block becomes one token of
the language network, so the cost of an image depends on its size.

Source of the sizes: the reference's Qwen3-VL-Embedding, which uses `smart_resize` of qwen-vl-utils.
Source of the patches' order and positions: transformers' Qwen3-VL.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from backends.model import EncodeParams, ModelInput, ModelOptions
from backends.preprocessing.header import read_size
from backends.preprocessing.pixels import in_rgb
from backends.preprocessing.single_part import SinglePart
from errors import InvalidInputError

_LONGEST_RATIO = 200  # maximum ratio of the longer side to the shorter
_TOKENS_OF_COST = 64  # unit of cost: the tokens of an image of 256x256 pixels

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class Grid(NamedTuple):
    """The rows and columns of blocks of an image."""

    rows: int
    columns: int

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return self.rows * self.columns


@dataclass(frozen=True)
class Blocks:
    """Parameters of splitting an image into blocks of patches; they are stored in `model.json`.

    Attributes:
        patch_px: side of a patch, in pixels.
        merged: side of a block, in patches.
        positions: side of the square grid of position embeddings.
        least_px: minimum number of pixels of a resized image.
        most_px: maximum number of pixels of a resized image.
    """

    patch_px: int
    merged: int
    positions: int
    least_px: int
    most_px: int

    def as_json(self) -> dict[str, object]:
        """Return the parameters as JSON types."""
        return asdict(self)

    @property
    def block_px(self) -> int:
        """Side of a block in pixels."""
        return self.patch_px * self.merged

    @property
    def max_blocks(self) -> int:
        """Maximum number of blocks of an image."""
        return self.most_px // self.block_px**2

    def grid_for(self, size: tuple[int, int]) -> Grid:
        """Return the grid of blocks for an image of (width, height) in pixels."""
        side, (width, height) = self.block_px, size
        # Python's `round` rounds halves to even, as the reference does.
        rows, columns = (max(1, round(length / side)) for length in (height, width))
        pixels = rows * columns * side**2
        if pixels > self.most_px:
            smaller = math.sqrt(height * width / self.most_px)
            rows, columns = (
                max(1, math.floor(length / smaller / side)) for length in (height, width)
            )
            # A narrow image stays one block wide, so only its longer side shrinks. Only an
            # operator's maximum can be so low.
            rows = min(rows, self.max_blocks)
            return Grid(rows, min(columns, self.max_blocks // rows))
        if pixels < self.least_px:
            larger = math.sqrt(self.least_px / (height * width))
            return Grid(*(math.ceil(length * larger / side) for length in (height, width)))
        return Grid(rows, columns)

    def cut(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Return an image's patches: [blocks, patches of a block, values] uint8, channels last."""
        grid, side = self.grid_for(image.size), self.block_px
        size = grid.columns * side, grid.rows * side
        pixels = np.asarray(in_rgb(image).resize(size, Image.Resampling.BICUBIC))
        in_blocks = pixels.reshape(
            grid.rows, self.merged, self.patch_px, grid.columns, self.merged, self.patch_px, 3
        )
        cut = in_blocks.transpose(0, 3, 1, 4, 2, 5, 6)
        return cut.reshape(grid.blocks, self.merged**2, -1)

    def places(self, grid: Grid) -> Integers:
        """Return the row and column of each patch: integers [blocks, patches of a block, 2]."""
        rows, columns = (np.arange(count * self.merged) for count in grid)
        of_each = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
        in_blocks = of_each.reshape(grid.rows, self.merged, grid.columns, self.merged, 2)
        return in_blocks.transpose(0, 2, 1, 3, 4).reshape(grid.blocks, self.merged**2, 2)

    def corners(self, grid: Grid) -> tuple[Integers, Floats]:
        """Compute the bilinear interpolation of the position embeddings for each patch.

        Returns:
            The indexes of the four nearest position embeddings of each patch, and their weights;
            both arrays are [blocks, patches of a block, 4].
        """
        last = self.positions - 1
        ends = np.array([max(count * self.merged - 1, 1) for count in grid], np.float32)
        at = self.places(grid).astype(np.float32) * np.float32(last) / ends
        low = np.floor(at)
        near = np.minimum(np.stack([low, low + 1], axis=-1).astype(np.int64), last)
        share = np.stack([1 - (at - low), at - low], axis=-1)
        rows, columns = np.moveaxis(near, -2, 0)
        row_shares, column_shares = np.moveaxis(share, -2, 0)
        places = rows[..., :, None] * self.positions + columns[..., None, :]
        shares = row_shares[..., :, None] * column_shares[..., None, :]
        shape = (grid.blocks, self.merged**2, 4)
        return places.reshape(shape), shares.reshape(shape)


@dataclass(frozen=True)
class Around:
    """The token ids of the conversation before and after an image; stored in `model.json`."""

    before: Sequence[int]
    after: Sequence[int]

    def as_json(self) -> dict[str, object]:
        """Return the parameters as JSON types."""
        return asdict(self)

    def tokens(self, grid: Grid) -> int:
        """Return the number of tokens of a conversation with an image."""
        return len(self.before) + grid.blocks + len(self.after)

    def places(self, grid: Grid) -> Integers:
        """Return the position of each token in time, height and width: [3, tokens].

        All tokens of an image have the same position in time. The text after the image continues
        from the end of the image's longer side.
        """
        start = len(self.before)
        rows, columns = np.divmod(np.arange(grid.blocks), grid.columns)
        image = start + np.stack([np.zeros_like(rows), rows, columns])
        before, after = (np.arange(len(ids)) for ids in (self.before, self.after))
        after = after + start + max(grid)
        return np.hstack([np.tile(before, (3, 1)), image, np.tile(after, (3, 1))])


class BlockProcessor(SinglePart):
    """Splits images into blocks of patches; images of equal grids share batches.

    Args:
        blocks: parameters of the splitting.
        around: token ids before and after an image.
        most_px: the operator's maximum number of pixels; it applies if it is below
            `Blocks.most_px`. None for no such maximum.
    """

    def __init__(self, blocks: Blocks, around: Around, most_px: int | None = None) -> None:
        bounded = replace(blocks, most_px=min(most_px or blocks.most_px, blocks.most_px))
        self.reading = "" if bounded == blocks else f"at most {bounded.most_px} pixels"
        self._blocks = bounded
        self._around = around

    def estimate(self, content: bytes) -> int:
        """Return the cost from the size in the file's header; without a size, the maximum cost."""
        size = read_size(content)
        if not size or 0 in size:
            return self._cost(Grid(1, self._blocks.max_blocks))
        return self._cost(self._blocks.grid_for(size))

    def prepare(self, image: Image.Image, _params: EncodeParams) -> ModelInput:
        """Return the network's inputs for an image.

        These are, in order: the patches (see `Blocks.cut`), their corners and shares (see
        `Blocks.corners`) and their places (see `Blocks.places`). Then follow, all int64: the ids
        around the image [tokens around], the positions of all tokens [3, tokens], and the index
        of the last token.

        Raises:
            InvalidInputError: the aspect ratio of the image is too large.
        """
        shorter, longer = sorted(image.size)
        if longer > _LONGEST_RATIO * shorter:
            raise InvalidInputError(
                f"{image.width}x{image.height} pixels: this model reads no images with one side "
                f"more than {_LONGEST_RATIO} times as long as the other",
                "pixels",
            )
        blocks, around = self._blocks, self._around
        grid = blocks.grid_for(image.size)
        ids = np.array([*around.before, *around.after])
        last = np.array(around.tokens(grid) - 1)
        corners, shares = blocks.corners(grid)
        arrays = (blocks.cut(image), corners, shares, blocks.places(grid), ids)
        return ModelInput((*arrays, around.places(grid), last), bucket=grid, cost=self._cost(grid))

    def _cost(self, grid: Grid) -> int:
        return math.ceil(self._around.tokens(grid) / _TOKENS_OF_COST)


def read(_folder: Path, described: Mapping[str, Any], options: ModelOptions) -> BlockProcessor:
    """Load the input processor that a converted model describes."""
    blocks, around = Blocks(**described["blocks"]), Around(**described["around"])
    return BlockProcessor(blocks, around, options.max_read_pixels)

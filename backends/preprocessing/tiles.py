"""Splits an image into tiles, and makes a prompt that names the row and column of each tile.

ModernVBERT reads an image as square tiles in high resolution, row by row, and then the whole image
again, resized to one tile. Its text network reads the tokens of each tile after tokens that name
the tile's row and column. The cost of an image is its number of tiles.

Source of the tiles and of the prompt: Idefics3's image processor and processor in transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from backends.model import Arrays, EncodeParams, ModelInput, ModelOptions
from backends.preprocessing.header import read_size
from backends.preprocessing.pixels import in_rgb, to_pixels
from backends.preprocessing.resampling import Pixels
from backends.preprocessing.single_part import SinglePart
from backends.preprocessing.tokens import Padding
from backends.preprocessing.vocabulary import VOCABULARY, read_vocabulary

Encode: TypeAlias = Callable[[str], Sequence[int]]  # text -> ids, including special tokens
_Size: TypeAlias = tuple[int, int]  # (width, height)


class Grid(NamedTuple):
    """The rows and columns of tiles of an image; both 0 if the whole image is the only tile."""

    rows: int
    columns: int

    @property
    def tiles(self) -> int:
        """Number of tiles, including the whole image."""
        return self.rows * self.columns + 1


_WHOLE = Grid(0, 0)


@dataclass(frozen=True)
class Tiling:
    """Parameters of resizing (by Pillow) and splitting an image; stored in `model.json`.

    Attributes:
        resample: the filter, as a number of `PIL.Image.Resampling`.
        longest_px: target length of the longer side in pixels, before it is rounded up to whole
            tiles.
        tile_px: side of a tile, in pixels.
        max_tiles: maximum number of tiles, including the whole image; an image with more tiles is
            scaled down until it fits. None for no maximum.
    """

    resample: int
    longest_px: int
    tile_px: int
    max_tiles: int | None = None

    def as_json(self) -> dict[str, object]:
        """Return the parameters as JSON types."""
        return asdict(self)

    @property
    def grids(self) -> list[Grid]:
        """All grids into which an image may be split."""
        sides = range(1, math.ceil(self.longest_px / self.tile_px) + 1)
        cut = (Grid(rows, columns) for rows in sides for columns in sides if rows * columns > 1)
        return [_WHOLE, *filter(self._allows, cut)]

    def grid_for(self, size: _Size) -> Grid:
        """Return the grid of tiles for an image of (width, height) in pixels."""
        return self._grid(self._sizes_for(size)[-1])

    def cut(self, image: Image.Image) -> Pixels:
        """Return the tiles, with the whole image last: [tiles, 3, tile_px, tile_px] uint8."""
        image = in_rgb(image)
        for size in self._sizes_for(image.size):  # two steps; each rounds to 8 bits
            image = self._resize(image, size)
        side, (rows, columns) = self.tile_px, self._grid(image.size)
        pixels = to_pixels(image)[:, : rows * side, : columns * side]
        tiles = pixels.reshape(3, rows, side, columns, side).transpose(1, 3, 0, 2, 4)
        whole = to_pixels(self._resize(image, (side, side)))
        return np.concatenate([tiles.reshape(-1, 3, side, side), whole[None]])

    def _allows(self, grid: Grid) -> bool:
        return self.max_tiles is None or grid.tiles <= self.max_tiles

    def _resize(self, image: Image.Image, size: _Size) -> Image.Image:
        return image.resize(size, Image.Resampling(self.resample))

    def _grid(self, size: _Size) -> Grid:
        grid = Grid(size[1] // self.tile_px, size[0] // self.tile_px)
        return grid if max(grid) > 1 else _WHOLE

    def _sizes_for(self, size: _Size) -> tuple[_Size, _Size]:
        """Return the sizes after both resizing steps: to the longer side, then to whole tiles."""
        choices = (self._scaled(size, longest) for longest in self._longer_sides())
        return next(one for one in choices if self._allows(self._grid(one[-1])))

    def _scaled(self, size: _Size, longest: int) -> tuple[_Size, _Size]:
        scaled = _with_longer_side(size, longest)
        return scaled, _filled(scaled, self.tile_px)

    def _longer_sides(self) -> Iterator[int]:
        yield self.longest_px
        fewer = math.ceil(self.longest_px / self.tile_px) - 1
        yield from (tiles * self.tile_px for tiles in range(fewer, 0, -1))


def _with_longer_side(size: _Size, longest: int) -> _Size:
    """Return a size scaled to a length of the longer side; the shorter side is made even."""
    width, height = size
    ratio = width / height
    if width >= height:
        return longest, _even(int(longest / ratio))
    return _even(int(longest * ratio)), longest


def _even(side: int) -> int:
    return max(side + side % 2, 1)


def _filled(size: _Size, tile: int) -> _Size:
    """Return a size rounded up to whole tiles: first the longer side, then the shorter in ratio."""
    width, height = size
    ratio = width / height
    if width >= height:
        width = _whole_tiles(width, tile)
        return width, _whole_tiles(int(width / ratio), tile)
    height = _whole_tiles(height, tile)
    return _whole_tiles(int(height * ratio), tile), height


def _whole_tiles(side: int, tile: int) -> int:
    return math.ceil(side / tile) * tile


@dataclass(frozen=True)
class Prompt:
    """The prompt around the tiles; stored in `model.json`.

    Attributes:
        text: the prompt, with `<image>` in place of the tiles.
        tile_tokens: number of image tokens of a tile.
        pad_id: token id of the padding.
    """

    text: str
    tile_tokens: int
    pad_id: int

    def as_json(self) -> dict[str, object]:
        """Return the parameters as JSON types."""
        return asdict(self)

    def text_for(self, grid: Grid) -> str:
        """Return the prompt for an image, with image tokens for each tile and the whole image."""
        image, fence = "<image>" * self.tile_tokens, "<fake_token_around_image>"
        rows = (
            "".join(f"{fence}<row_{row}_col_{column}>{image}" for column in _numbers(grid.columns))
            for row in _numbers(grid.rows)
        )
        tiles = "".join(f"{row}\n" for row in rows)
        whole = f"{fence}<global-img>{image}{fence}"
        return self.text.replace("<image>", f"{tiles}\n{whole}" if tiles else whole)


def _numbers(count: int) -> range:
    return range(1, count + 1)


class TileProcessor(SinglePart):
    """Splits images into tiles; the tiles of all images of a batch are computed together.

    Args:
        tiling: parameters of the splitting.
        prompt: the prompt around the tiles.
        encode: the tokenizer; it is used only when this object is made.
        max_tiles: the operator's value, which replaces `Tiling.max_tiles`; None keeps it.
    """

    def __init__(
        self, tiling: Tiling, prompt: Prompt, encode: Encode, max_tiles: int | None = None
    ) -> None:
        bounded = replace(tiling, max_tiles=max_tiles)
        self.reading = "" if bounded.grids == tiling.grids else f"at most {max_tiles} tiles"
        self._tiling = tiling = bounded
        ids = {grid: encode(prompt.text_for(grid)) for grid in tiling.grids}
        # Prompts are padded to the longest prompt, so that images of all grids share batches.
        self._pad = Padding("full", max(map(len, ids.values())), prompt.pad_id, masked=True)
        self._ids = ids

    def estimate(self, content: bytes) -> int:
        """Return the number of tiles from the size in a file's header; without it, the maximum."""
        size = read_size(content)
        if not size or 0 in size:
            return max(grid.tiles for grid in self._ids)
        return self._tiling.grid_for(size).tiles

    def prepare(self, image: Image.Image, _params: EncodeParams) -> ModelInput:
        """Split an image into tiles, and return them with the prompt's ids and mask.

        Tiles: as in `Tiling.cut`. Ids and mask: [length] int64.
        """
        tiles = self._tiling.cut(image)
        arrays = (tiles, *self._pad(self._ids[self._tiling.grid_for(image.size)]))
        return ModelInput(arrays, bucket="tiles", cost=len(tiles))

    def collate(self, items: Sequence[ModelInput]) -> Arrays:
        """Concatenate the tiles of all images, [tiles, 3, H, W]; stack ids and masks."""
        tiles, ids, masks = zip(*(item.arrays for item in items), strict=True)
        return np.concatenate(tiles), np.stack(ids), np.stack(masks)


def read(folder: Path, described: Mapping[str, Any], options: ModelOptions) -> TileProcessor:
    """Load the input processor that a converted model describes."""
    vocabulary = read_vocabulary(folder / VOCABULARY)
    vocabulary.no_padding()
    vocabulary.no_truncation()
    return TileProcessor(
        Tiling(**described["tiling"]),
        Prompt(**described["prompt"]),
        lambda text: vocabulary.encode(text).ids,
        options.max_image_tiles,
    )

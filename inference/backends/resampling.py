"""torch's way of scaling 8-bit images, in numpy: the same pixels without 470 MB of torch.

A family's vectors depend on its resizing kernel. Pillow's differs from torch's by up to 13 levels
where an image is higher than wide, which moves golden vectors beyond their tolerance; this one
differs by one level in one pixel of 10,000, where a weight lies between two integers.

Source of the arithmetic: torch's antialiased `interpolate` on uint8. Each axis is a sum with
weights that are rounded to 15 bits, first along the rows, and its result is rounded to uint8 again.
All of it is integers below 2^24, so float32 is exact, and the sums can be matrix products: each
block of outputs reads only the stretch of the axis that it covers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats: TypeAlias = npt.NDArray[np.float32]
Pixels: TypeAlias = npt.NDArray[np.uint8]  # [3, H, W]
_Doubles: TypeAlias = npt.NDArray[np.float64]

_OUTPUTS_PER_BLOCK = 16
_VALUES_PER_STRIPE = 1 << 18  # of a large image, so that a stripe stays in the processor's cache
_WEIGHT_BITS, _MOST_SHIFT = 15, 22


def _bilinear(x: _Doubles) -> _Doubles:
    return np.maximum(1 - x, 0)


def _bicubic(x: _Doubles) -> _Doubles:
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0))


# Of a distance >= 0 to the output's centre, in outputs, and how far it reaches.
_FILTERS: dict[int, tuple[Callable[[_Doubles], _Doubles], int]] = {
    Image.Resampling.BILINEAR: (_bilinear, 1),
    Image.Resampling.BICUBIC: (_bicubic, 2),
}


class _Block(NamedTuple):
    """Neighbouring outputs: they read inputs[start:stop], with weights [stop - start, outputs]."""

    start: int
    stop: int
    weights: Floats


class _Axis(NamedTuple):
    """How one axis is scaled; the weights are integers, too large by 2^shift."""

    blocks: list[_Block]
    shift: int


def resize(image: Image.Image, size: tuple[int, int], resample: int) -> Pixels:
    """Scale an RGB image to (height, width) as torch does: [3, height, width] uint8.

    Raises:
        KeyError: the filter is neither bilinear nor bicubic.
    """
    height, width = size
    rows = np.empty((3, image.height, width), np.float32)
    pixels = np.asarray(image)
    step = max(1, _VALUES_PER_STRIPE // (3 * image.width))
    for top in range(0, image.height, step):
        stripe = pixels[top : top + step].transpose(2, 0, 1).astype(np.float32, order="C")
        rows[:, top : top + step] = _along_rows(stripe, width, resample)
    return _along_columns(rows, height, resample).astype(np.uint8)


def _along_rows(values: Floats, width: int, resample: int) -> Floats:
    channels, height, old_width = values.shape
    if old_width == width:
        return values
    axis, flat = _axis(old_width, width, resample), values.reshape(-1, old_width)
    parts = [flat[:, block.start : block.stop] @ block.weights for block in axis.blocks]
    return _to_levels(np.concatenate(parts, axis=1), axis.shift).reshape(channels, height, width)


def _along_columns(values: Floats, height: int, resample: int) -> Floats:
    if values.shape[1] == height:
        return values
    axis = _axis(values.shape[1], height, resample)
    parts = [block.weights.T @ values[:, block.start : block.stop] for block in axis.blocks]
    return _to_levels(np.concatenate(parts, axis=1), axis.shift)


def _to_levels(sums: Floats, shift: int) -> Floats:
    sums += np.float32(1 << shift >> 1)
    sums *= np.float32(1 / (1 << shift))
    return np.clip(np.floor(sums, out=sums), 0, 255, out=sums)


@lru_cache(maxsize=256)
def _axis(inputs: int, outputs: int, resample: int) -> _Axis:
    windows = _windows(inputs, outputs, resample)
    shift = _shift(max(weights.max() for _, weights in windows))
    groups = (windows[i : i + _OUTPUTS_PER_BLOCK] for i in range(0, outputs, _OUTPUTS_PER_BLOCK))
    return _Axis([_block(group, shift) for group in groups], shift)


def _windows(inputs: int, outputs: int, resample: int) -> list[tuple[int, _Doubles]]:
    """Give each output's first input, and the weights from there on."""
    weigh, reach = _FILTERS[resample]
    scale = inputs / outputs
    stretch = max(scale, 1.0)
    windows = []
    for output in range(outputs):
        centre = scale * (output + 0.5)
        start = max(int(centre - reach * stretch + 0.5), 0)
        stop = min(int(centre + reach * stretch + 0.5), inputs)
        weights = weigh(np.abs((np.arange(start, stop) - centre + 0.5) / stretch))
        windows.append((start, weights / weights.sum()))
    return windows


def _shift(largest: float) -> int:
    """Find how far weights may be enlarged so that the largest has 15 bits."""
    for shift in range(_MOST_SHIFT):
        if int(0.5 + largest * (1 << (shift + 1))) >= 1 << _WEIGHT_BITS:
            return shift
    return _MOST_SHIFT


def _block(windows: list[tuple[int, _Doubles]], shift: int) -> _Block:
    start = min(first for first, _ in windows)
    stop = max(first + len(weights) for first, weights in windows)
    block = np.zeros((stop - start, len(windows)), np.float32)
    for column, (first, weights) in enumerate(windows):
        whole = np.trunc(weights * (1 << shift) + np.copysign(0.5, weights))
        block[first - start : first - start + len(weights), column] = whole
    return _Block(start, stop, block)

"""Resizes 8-bit images like torch, but in numpy, without torch's 470 MB.

A family's vectors depend on its resizing kernel. Pillow's pixels differ from torch's by up to 13
levels (of 255) if an image is higher than wide, which changes golden vectors by more than the
tolerance. The pixels of this module differ from torch's by one level in one pixel of 10,000, where
a sum lies between two levels.

Source of the arithmetic: torch's antialiased `interpolate` on uint8. It resizes first along the
rows, then along the columns. Each output is a weighted sum, with weights rounded to 15 bits; the
sum is rounded to uint8. Here the sums are matrix products in float32; each block of outputs reads
only its part of the axis. Pixels outside of the crop are not computed, as a resized image may be
huge: an image of 1x2000 pixels is resized to 224x448,000.
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
_Integers: TypeAlias = npt.NDArray[np.int64]

_OUTPUTS_PER_BLOCK = 16
_VALUES_PER_STRIPE = 1 << 18  # a stripe of a large image fits into the CPU's cache
_WEIGHT_BITS, _MAX_SHIFT = 15, 22


class Box(NamedTuple):
    """The crop of a resized image, in pixels of the resized image."""

    top: int
    left: int
    height: int
    width: int


def _bilinear(x: _Doubles) -> _Doubles:
    return np.maximum(1 - x, 0)


def _bicubic(x: _Doubles) -> _Doubles:
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0))


# For each filter: the weight as a function of the distance (>= 0) to the output's centre, and the
# filter's support.
_FILTERS: dict[int, tuple[Callable[[_Doubles], _Doubles], int]] = {
    Image.Resampling.BILINEAR: (_bilinear, 1),
    Image.Resampling.BICUBIC: (_bicubic, 2),
}


class _Block(NamedTuple):
    """A block of neighbouring outputs: inputs[start:stop] @ weights [stop - start, outputs]."""

    start: int
    stop: int
    weights: Floats


class _Axis(NamedTuple):
    """The resizing of one axis; the weights are scaled by 2^shift and rounded to integers."""

    blocks: list[_Block]
    shift: int

    @property
    def start(self) -> int:
        """Index of the first input that any block reads."""
        return min(block.start for block in self.blocks)

    @property
    def stop(self) -> int:
        """Index after the last input that any block reads."""
        return max(block.stop for block in self.blocks)


def resize(image: Image.Image, size: tuple[int, int], resample: int, box: Box) -> Pixels:
    """Resize an RGB image to (height, width) as torch does, and crop it: [3, H, W] uint8.

    Raises:
        KeyError: the filter is neither bilinear nor bicubic.
    """
    rows = _axis(image.height, size[0], box.top, box.height, resample)
    columns = _axis(image.width, size[1], box.left, box.width, resample)
    scaled = np.empty((3, rows.stop - rows.start, box.width), np.float32)
    pixels = np.asarray(image)[rows.start : rows.stop, columns.start : columns.stop]
    step = max(1, _VALUES_PER_STRIPE // (3 * pixels.shape[1]))
    for top in range(0, len(pixels), step):
        stripe = pixels[top : top + step].transpose(2, 0, 1).astype(np.float32, order="C")
        scaled[:, top : top + step] = _along_rows(stripe, columns)
    return _along_columns(scaled, rows).astype(np.uint8)


def interpolation(inputs: int, outputs: int, resample: int) -> Floats:
    """Return torch's interpolation weights of one axis in float32: [outputs, inputs].

    Raises:
        KeyError: the filter is neither bilinear nor bicubic.
    """
    weights, starts = _weights(inputs, outputs, np.arange(outputs), resample)
    matrix = np.zeros((outputs, inputs + weights.shape[1]), np.float32)  # space for unused taps
    matrix[np.arange(outputs)[:, None], starts[:, None] + np.arange(weights.shape[1])] = weights
    return matrix[:, :inputs]


def _along_rows(values: Floats, axis: _Axis) -> Floats:
    channels, height, width = values.shape
    flat, first = values.reshape(-1, width), axis.start
    parts = [flat[:, b.start - first : b.stop - first] @ b.weights for b in axis.blocks]
    return _to_levels(np.concatenate(parts, axis=1), axis.shift).reshape(channels, height, -1)


def _along_columns(values: Floats, axis: _Axis) -> Floats:
    first = axis.start
    parts = [b.weights.T @ values[:, b.start - first : b.stop - first] for b in axis.blocks]
    return _to_levels(np.concatenate(parts, axis=1), axis.shift)


def _to_levels(sums: Floats, shift: int) -> Floats:
    sums += np.float32(1 << shift >> 1)
    sums *= np.float32(1 / (1 << shift))
    return np.clip(np.floor(sums, out=sums), 0, 255, out=sums)


@lru_cache(maxsize=16)  # imported images often have equal sizes; up to 4 MB an entry
def _axis(inputs: int, outputs: int, first: int, count: int, resample: int) -> _Axis:
    """Compute the weights of `count` outputs of an axis, beginning with the output `first`."""
    if inputs == outputs:  # torch does not resize such an axis
        return _Axis([_Block(first, first + count, np.eye(count, dtype=np.float32))], shift=0)
    weights, starts = _weights(inputs, outputs, np.arange(first, first + count), resample)
    # The shift depends on the largest weight of the whole axis, which may be outside of the crop.
    shift = _shift(max(weights.max(), _largest_weight(inputs, outputs, resample)))
    whole = np.trunc(weights * (1 << shift) + np.copysign(0.5, weights))
    groups = (slice(i, i + _OUTPUTS_PER_BLOCK) for i in range(0, count, _OUTPUTS_PER_BLOCK))
    return _Axis([_block(whole[group], starts[group]) for group in groups], shift)


def _largest_weight(inputs: int, outputs: int, resample: int) -> float:
    """Return the largest weight of all outputs, including those outside of the crop."""
    chunks = (np.arange(i, min(i + 4096, outputs)) for i in range(0, outputs, 4096))
    return max(float(_weights(inputs, outputs, one, resample)[0].max()) for one in chunks)


def _weights(
    inputs: int, outputs: int, wanted: _Integers, resample: int
) -> tuple[_Doubles, _Integers]:
    """Return the weights of n outputs [n, taps], and the index of the first input of each [n]."""
    weigh, reach = _FILTERS[resample]
    scale = inputs / outputs
    stretch = max(scale, 1.0)
    centres = scale * (wanted + 0.5)
    starts = np.maximum((centres - reach * stretch + 0.5).astype(np.int64), 0)
    stops = np.minimum((centres + reach * stretch + 0.5).astype(np.int64), inputs)
    places = starts[:, None] + np.arange((stops - starts).max())
    weights = weigh(np.abs((places - centres[:, None] + 0.5) / stretch))
    weights[places >= stops[:, None]] = 0
    return weights / weights.sum(axis=1, keepdims=True), starts


def _shift(largest: float) -> int:
    """Return the largest shift that keeps the largest weight within 15 bits."""
    for shift in range(_MAX_SHIFT):
        if int(0.5 + largest * (1 << (shift + 1))) >= 1 << _WEIGHT_BITS:
            return shift
    return _MAX_SHIFT


def _block(weights: _Doubles, starts: _Integers) -> _Block:
    outputs, taps = weights.shape
    offsets = starts - starts[0]
    block = np.zeros((int(offsets[-1]) + taps, outputs), np.float32)
    block[offsets[:, None] + np.arange(taps), np.arange(outputs)[:, None]] = weights
    used = int(np.flatnonzero(block.any(axis=1))[-1]) + 1  # weights beyond the last input are 0
    return _Block(int(starts[0]), int(starts[0]) + used, block[:used])

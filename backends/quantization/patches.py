"""Turns the patch convolution of an image tower into a matrix product of uint8 pixels.

The first layer of an image tower is a convolution over patches that do not overlap: its stride is
its width. So it equals a matrix product of the weights with the pixels of each patch. Pixels are
uint8, so they need no rounding, and no float32 copy of the image is made. The normalization is
folded into the weights and into a zero point.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops

Floats = npt.NDArray[np.float32]


class Patches(NamedTuple):
    """A convolution over an image's patches, as the product `(bytes - zero) @ weights.T`.

    Attributes:
        bytes: [n, patches, width] float32, integers from 0 to 255.
        weights: [outputs, width].
        zero: [width], the pixel value that is normalized to 0.
        shape: shape of the convolution's result without n: [outputs, rows, columns].
    """

    bytes: Any
    weights: Floats
    zero: Floats
    shape: tuple[int, int, int]

    @classmethod
    def from_convolution(cls, convolution: Any) -> Patches | None:
        """Read a convolution; return None if its input is not an image, or its patches overlap."""
        kernel = convolution.input_value(1).get_node()
        normalized = _normalized(convolution.input_value(0))
        if normalized is None or kernel.get_type_name() != "Constant":
            return None
        outputs, channels, height, width = kernel.data.shape
        *_, pixel_rows, pixel_columns = normalized.pixels.partial_shape
        if pixel_rows.is_dynamic or pixel_columns.is_dynamic:
            return None
        rows, rest_of_rows = divmod(pixel_rows.get_length(), height)
        columns, rest_of_columns = divmod(pixel_columns.get_length(), width)
        if rest_of_rows or rest_of_columns or not _is_once_each(convolution, [height, width]):
            return None
        apart = _numbers(0, channels, rows, height, columns, width)
        together = _numbers(0, rows * columns, channels * height * width)
        cut = ops.reshape(normalized.pixels, apart, True)
        cut = ops.reshape(ops.transpose(cut, _numbers(0, 2, 4, 1, 3, 5)), together, True)
        zero = np.broadcast_to(-normalized.addend / normalized.factor, kernel.data.shape)
        return cls(
            ops.convert(cut, "f32"),
            (kernel.data * normalized.factor).reshape(outputs, -1),
            zero[0].reshape(-1),
            (outputs, rows, columns),
        )

    def replace(self, convolution: Any, made: Any) -> None:
        """Replace the convolution in its network by `made`, a result [n, patches, outputs]."""
        in_front = ops.transpose(made, _numbers(0, 2, 1))
        convolution.output(0).replace(
            ops.reshape(in_front, _numbers(0, *self.shape), True).output(0)
        )


def are_bytes(value: Any) -> bool:
    """Return whether a float32 value was converted from uint8."""
    node = value.get_node()
    return bool(
        node.get_type_name() == "Convert" and node.input_value(0).get_element_type() == ov.Type.u8
    )


class _Normalized(NamedTuple):
    """Normalized pixels, as `bytes * factor + addend`.

    Factor and addend are [1, channels, 1, 1] or scalars.
    """

    pixels: Any
    factor: Floats
    addend: Floats


def _normalized(value: Any) -> _Normalized | None:
    """Trace a value back to uint8 pixels, through operations on single channels."""
    node, kind = value.get_node(), value.get_node().get_type_name()
    if are_bytes(value):
        return _Normalized(node.input_value(0), np.ones(1, np.float32), np.zeros(1, np.float32))
    if kind not in {"Add", "Subtract", "Multiply", "Divide"}:
        return None
    number, before = node.input_value(1).get_node(), _normalized(node.input_value(0))
    if before is None or number.get_type_name() != "Constant" or number.data.size > 3:
        return None
    pixels, factor, addend = before
    if kind in {"Add", "Subtract"}:
        return _Normalized(pixels, factor, addend + (1 if kind == "Add" else -1) * number.data)
    scale = number.data if kind == "Multiply" else 1 / number.data
    return _Normalized(pixels, factor * scale, addend * scale)


def _is_once_each(convolution: Any, kernel: list[int]) -> bool:
    how = convolution.get_attributes()
    is_padded = any(how["pads_begin"]) or any(how["pads_end"]) or "same" in how["auto_pad"]
    return not is_padded and list(how["strides"]) == kernel and set(how["dilations"]) == {1}


def _numbers(*numbers: int) -> Any:
    return ops.constant(np.array(numbers))

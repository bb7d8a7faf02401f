"""An image's patches as products of its bytes, in place of a convolution.

A tower of images first takes each patch of an image by itself: a convolution whose steps are as
long as it is wide. That is a product of weights with the bytes of a patch, which have 8 bits as
they are: nothing of them is rounded, and no image is ever in float32. How pixels are normalized
goes into the weights, and into the byte that stands for 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops

Floats = npt.NDArray[np.float32]


class Patches(NamedTuple):
    """What a convolution makes of an image's bytes: `(bytes - zero) @ weights.T`.

    Attributes:
        bytes: [n, patches, width] float32, each a whole number from 0 to 255.
        weights: [outputs, width].
        zero: [width], what a byte would be that the model sees as 0.
        shape: of what the convolution returns, [n, outputs, rows, columns], without n.
    """

    bytes: Any
    weights: Floats
    zero: Floats
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, convolution: Any) -> Patches | None:
        """Read a convolution; None for one of anything but bytes, each of which it reads once."""
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

    def put_in_place_of(self, convolution: Any, made: Any) -> None:
        """Let what was made of the patches, [n, patches, outputs], stand for a convolution."""
        in_front = ops.transpose(made, _numbers(0, 2, 1))
        convolution.output(0).replace(
            ops.reshape(in_front, _numbers(0, *self.shape), True).output(0)
        )


def are_bytes(value: Any) -> bool:
    """Tell whether float32 is of whole numbers from 0 to 255, as bytes were turned into it."""
    node = value.get_node()
    return bool(
        node.get_type_name() == "Convert" and node.input_value(0).get_element_type() == ov.Type.u8
    )


class _Normalized(NamedTuple):
    """Pixels as a model sees them: `bytes * factor + addend`, each [1, channels, 1, 1] or one."""

    pixels: Any
    factor: Floats
    addend: Floats


def _normalized(value: Any) -> _Normalized | None:
    """Follow what bytes go through, as far as that is done to each channel by itself."""
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

"""8 bits: of the weights of products, and of what is multiplied with them; nothing is calibrated.

Weights have a scale for each output. Each token has a range of its own, from its least value to its
largest, in 255 steps, so that no vector depends on its batch mates: as GELU makes almost nothing
that is negative, steps that are as many below 0 as above would be twice as wide. With q of 8 bits,
r the width of a token's range and l its least value, a product is

    sum(x w) = (l + r sum(q/255 w) / sum(w)) sum(w)      where  x = l + r q/255

The inner sum of products is one of whole numbers: exact, by whatever instructions. All else is
computed in float32, so a machine whose float32 differs in the last place may round to the next
step. In this order each token and each output have a factor, or an addend, of their own, which
OpenVINO applies in one go; l sum(w) added at the end would be as large as the product.

A machine that loses part of such sums multiplies the same weights in float32, by tokens as they
are: rounded they would be no faster there, and carry the last place of float32 on.

The bytes of an image are 8 bits as they are (see `patches`).

Tables that rows are looked up in, as of tokens, are kept in float16, which moves no vector by 1e-6
of a cosine: OpenVINO then reads them where the file is mapped, and copies none of it.

See https://docs.openvino.ai/2026/openvino-workflow/model-optimization-guide/weight-compression.html
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops

from backends.quantization.patches import Patches, are_bytes
from backends.runtimes.openvino.core import compile_network

# OpenVINO would quantize what is multiplied as well, in groups, for weights that it finds packed.
PROPERTIES = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
_LARGEST = 127  # of 8 bits with a sign, as far below 0 as above
_STEPS = 255  # of 8 bits without a sign
_ALMOST_0 = 1 / 1024  # of a step of weights: what they are divided by where they sum up to 0
_TINY = float(np.finfo(np.float32).tiny)


def compress(network: ov.Model) -> None:
    """Turn the weights of every product into 8 bits, and tables into 16, in place.

    A convolution of an image's patches becomes such a product. Those that are so already stay.
    """
    _take_apart(network)
    for convolution in network.get_ordered_ops():
        if convolution.get_type_name() == "Convolution" and (cut := Patches.of(convolution)):
            cut.put_in_place_of(convolution, _of_patches(cut))
    for product in _products(network):
        weights = product.input_value(1).get_node()
        if _is_matrix(weights):
            scaled = _scaled(*_rounded(weights.data, _axis(product)))
            product.input(1).replace_source_output(scaled.output(0))
    for lookup in network.get_ordered_ops():
        if lookup.get_type_name() == "Gather" and _is_matrix(lookup.input_value(0).get_node()):
            table = lookup.input_value(0).get_node().data
            lookup.input(0).replace_source_output(_in_float16(table).output(0))


def quantize(network: ov.Model) -> bool:
    """Give 8 bits to all that is multiplied with weights that have them, in place.

    Nothing is changed where the machine does not multiply them. A token with a NaN among its values
    may come out finite.

    Returns:
        Whether there is any such product.
    """
    products = [product for product in _products(network) if _has_8_bits(product)]
    if multiplies():
        _multiply_in_8_bits(products)
        network.validate_nodes_and_infer_types()
    return bool(products)


def _multiply_in_8_bits(products: Sequence[Any]) -> None:
    known: dict[tuple[str, int], QuantizedTokens] = {}
    for product in products:
        given, weights = product.input_value(0), SumScaledWeights.of(product)
        name = given.get_node().get_name(), given.get_index()
        if name not in known:  # a token's query, key and value are products of the same
            known[name] = QuantizedTokens.of(given)
        tokens, users = known[name], product.output(0).get_target_inputs()
        product.input(0).replace_source_output(tokens.steps)
        product.input(1).replace_source_output(weights.shares)
        mean = ops.add(ops.multiply(product, tokens.width), tokens.least)
        whole = ops.multiply(mean, weights.sums)
        for user in users:
            user.replace_source_output(whole.output(0))


def arithmetic() -> str:
    """Return what a vector space calls the arithmetic of this machine."""
    return "int8, each token's range" if multiplies() else "int8 weights, float32"


@cache
def multiplies() -> bool:
    """Tell whether what this machine makes of products of 8 bits is added up without a loss.

    By instructions older than VNNI OpenVINO adds two products up in 16 bits, which cannot hold the
    sum of the largest.
    """
    width = 64
    network = product(np.full((1, width), _LARGEST, np.float32))
    compress(network)
    (only,) = _products(network)
    only.input(0).replace_source_output(_quantized(only.input_value(0)).output(0))
    found = compile_network(network, PROPERTIES)(np.ones((1, width), np.float32))[0]
    return bool(abs(found.item() - width * _LARGEST) < 1)


def product(weights: npt.NDArray[np.float32]) -> ov.Model:
    """Make the smallest network: rows times weights, [outputs, width]."""
    rows = ops.parameter([-1, weights.shape[1]], ov.Type.f32)
    return ov.Model([ops.matmul(rows, ops.constant(weights), False, True)], [rows], "product")


def _products(network: ov.Model) -> list[Any]:
    """Return what may be products with weights, which all families have on the right."""
    return [
        node
        for node in network.get_ordered_ops()
        if node.get_type_name() == "MatMul" and not node.get_attributes()["transpose_a"]
    ]


def _axis(product: Any) -> int:
    """Return along which axis of the weights a product adds up."""
    return int(product.get_attributes()["transpose_b"])


def _take_apart(network: ov.Model) -> None:
    """Make matrices of their own of weights that stand in one, as of some attention."""
    for split in network.get_ordered_ops():
        if split.get_type_name() == "VariadicSplit" and _is_matrix(split.input_value(0).get_node()):
            matrix, axis = (split.input_value(place).get_node().data for place in (0, 1))
            lengths = [part.partial_shape[int(axis)].get_length() for part in split.outputs()]
            parts = np.split(matrix, np.cumsum(lengths)[:-1], int(axis))
            for output, part in zip(split.outputs(), parts, strict=True):
                output.replace(ops.constant(np.ascontiguousarray(part)).output(0))


def _of_patches(cut: Patches) -> Any:
    rounded, scales = _rounded(cut.weights, axis=1)
    made = ops.matmul(cut.bytes, _scaled(rounded, scales), False, True)
    # By the weights as they are now, or what was rounded of each counts for all that is not 0.
    return ops.subtract(made, ops.constant((rounded * scales) @ cut.zero))


def _rounded(
    weights: npt.NDArray[np.float32], axis: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return weights in 8 bits, and the scale of each output."""
    largest = np.abs(weights).max(axis=axis, keepdims=True)
    scales = np.maximum(largest / _LARGEST, _TINY).astype(np.float32)
    return np.rint(weights / scales).astype(np.int8), scales


def _scaled(rounded: npt.NDArray[np.int8], scales: npt.NDArray[np.float32]) -> Any:
    return ops.multiply(ops.convert(ops.constant(rounded), "f32"), ops.constant(scales))


def _has_8_bits(product: Any) -> bool:
    """Tell whether the weights of a product are what `_scaled` makes."""
    scaled = product.input_value(1).get_node()
    if scaled.get_type_name() != "Multiply":
        return False
    converted = scaled.input_value(0).get_node()
    return converted.get_type_name() == "Convert" and _is_constant(
        converted.input_value(0).get_node(), ov.Type.i8
    )


def _in_float16(table: npt.NDArray[np.float32]) -> Any:
    largest = np.finfo(np.float16).max
    return ops.convert(ops.constant(table.clip(-largest, largest).astype(np.float16)), "f32")


class SumScaledWeights(NamedTuple):
    """Weights of 8 bits, each as its share in the sum of its output's: `shares * sums`.

    Attributes:
        shares: 1 in sum for each output, or 0; of the shape of the weights.
        sums: of each output, [outputs].
    """

    shares: Any
    sums: Any

    @classmethod
    def of(cls, product: Any) -> SumScaledWeights:
        """Divide the weights of a product that has them in 8 bits."""
        axis, scaled = _axis(product), product.input_value(1).get_node()
        converted, scales = (scaled.input_value(place).get_node() for place in (0, 1))
        weights = converted.input_value(0).get_node()
        sums = weights.data.sum(axis, np.int32, keepdims=True).astype(np.float32)
        sums[sums == 0] = _ALMOST_0
        shares = ops.multiply(converted, ops.constant(1 / sums))
        return cls(shares.output(0), ops.constant((sums * scales.data).squeeze(axis)))


class QuantizedTokens(NamedTuple):
    """Tokens, [..., width], in 8 bits: each value is `least + width * steps`.

    Attributes:
        steps: whole numbers from 0 to 255, divided by 255.
        least: of each token, [..., 1].
        width: of each token's range, [..., 1].
    """

    steps: Any
    least: Any
    width: Any

    @classmethod
    def of(cls, tokens: Any) -> QuantizedTokens:
        """Divide the range of each into steps; bytes have theirs already."""
        if are_bytes(tokens):
            shares = ops.multiply(tokens, _number(1 / _STEPS))
            return cls(_quantized(shares).output(0), _number(0), _number(_STEPS))
        last = ops.constant(np.array([-1]))
        least, largest = ops.reduce_min(tokens, last, True), ops.reduce_max(tokens, last, True)
        # Never 0, which it would be where all values of a token are equal.
        width = ops.add(ops.subtract(largest, least), _number(_TINY))
        shares = ops.divide(ops.subtract(tokens, least), width)
        return cls(_quantized(shares).output(0), least, width)


def _quantized(shares: Any) -> Any:
    low, high = _number(0), _number(1)
    return ops.fake_quantize(shares, low, high, low, high, _STEPS + 1)


def _number(value: float) -> Any:
    return ops.constant(np.float32(value))


def _is_matrix(node: Any) -> bool:
    return _is_constant(node, ov.Type.f32) and node.data.ndim == 2


def _is_constant(node: Any, kind: ov.Type) -> bool:
    return bool(node.get_type_name() == "Constant" and node.get_element_type() == kind)

"""int8 quantization of the weights and activations of matrix products, without calibration data.

Weights have a scale for each output channel (symmetric). Activations are quantized dynamically:
each token has a range of its own, from its least to its largest value, in 255 steps (asymmetric).
So no vector depends on the other items of its batch. Symmetric steps would be twice as wide, as
GELU's outputs have almost no negative values. Let q be a quantized activation in uint8, r the width
of a token's range, l its least value, and w a weight. Then a product is

    sum(x w) = (l + r sum(q/255 w) / sum(w)) sum(w)      where  x = l + r q/255

The inner sum has integer terms and is exact on every machine. The rest is computed in float32, so
machines whose float32 results differ in the last bit may round to another step. In this order,
OpenVINO fuses the factors and addends into the product. Adding l sum(w) at the end would need
another operation on arrays as large as the result.

On machines whose int8 instructions can overflow (see `multiplies`), int8 weights are multiplied
with float32 activations. Quantized activations would be no faster there, and less exact.

The pixels of an image are uint8 already (see `patches`).

Embedding tables are stored in float16, which changes cosines by less than 1e-6. OpenVINO reads the
tables from the mapped file without a copy.

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

# With a group size other than 0, OpenVINO would itself quantize activations of packed weights.
PROPERTIES = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
_LARGEST = 127  # largest int8 value, as the range is symmetric around 0
_STEPS = 255  # steps of a uint8 range
_ALMOST_0 = 1 / 1024  # replaces a sum of int8 weights that is 0, as a divisor
_TINY = float(np.finfo(np.float32).tiny)


def quantize_weights(network: ov.Model) -> None:
    """Quantize the weights of matrix products to int8, and embedding tables to float16, in place.

    A convolution of an image's patches becomes a matrix product. Weights that are int8 already are
    not changed.
    """
    _take_apart(network)
    for convolution in network.get_ordered_ops():
        if convolution.get_type_name() == "Convolution":
            patches = Patches.from_convolution(convolution)
            if patches:
                patches.replace(convolution, _multiply_patches(patches))
    for product in _products(network):
        weights = product.input_value(1).get_node()
        if _is_matrix(weights):
            scaled = _scaled(*_rounded(weights.data, _axis(product)))
            product.input(1).replace_source_output(scaled.output(0))
    for lookup in network.get_ordered_ops():
        if lookup.get_type_name() == "Gather" and _is_matrix(lookup.input_value(0).get_node()):
            table = lookup.input_value(0).get_node().data
            largest = np.finfo(np.float16).max
            rounded = ops.constant(table.clip(-largest, largest).astype(np.float16))
            lookup.input(0).replace_source_output(ops.convert(rounded, "f32").output(0))


def quantize_activations(network: ov.Model) -> bool:
    """Quantize the activations that are multiplied with int8 weights, in place.

    Nothing is changed if `multiplies()` is false on this machine. A token with a NaN may become
    finite.

    Returns:
        Whether the network has products with int8 weights.
    """
    products = [product for product in _products(network) if _is_int8(product)]
    if multiplies():
        _multiply_in_int8(products)
        network.validate_nodes_and_infer_types()
    return bool(products)


def _multiply_in_int8(products: Sequence[Any]) -> None:
    known: dict[tuple[str, int], QuantizedTokens] = {}
    for product in products:
        given, weights = product.input_value(0), SumScaledWeights.from_product(product)
        name = given.get_node().get_name(), given.get_index()
        if name not in known:  # query, key and value share their activations
            known[name] = QuantizedTokens.from_tokens(given)
        tokens, users = known[name], product.output(0).get_target_inputs()
        product.input(0).replace_source_output(tokens.steps)
        product.input(1).replace_source_output(weights.shares)
        mean = ops.add(ops.multiply(product, tokens.width), tokens.least)
        whole = ops.multiply(mean, weights.sums)
        for user in users:
            user.replace_source_output(whole.output(0))


def arithmetic() -> str:
    """Return a name for this machine's int8 arithmetic, which is part of the vector space."""
    return "int8, each token's range" if multiplies() else "int8 weights, float32"


@cache
def multiplies() -> bool:
    """Return whether this machine sums int8 products without overflow.

    With instructions older than VNNI, OpenVINO sums two products in 16 bits, which may overflow.
    """
    width = 64
    network = product(np.full((1, width), _LARGEST, np.float32))
    quantize_weights(network)
    (only,) = _products(network)
    only.input(0).replace_source_output(_quantized(only.input_value(0)).output(0))
    found = compile_network(network, PROPERTIES)(np.ones((1, width), np.float32))[0]
    return bool(abs(found.item() - width * _LARGEST) < 1)


def product(weights: npt.NDArray[np.float32]) -> ov.Model:
    """Return a network of a single product: rows [n, width] times weights [outputs, width]."""
    rows = ops.parameter([-1, weights.shape[1]], ov.Type.f32)
    return ov.Model([ops.matmul(rows, ops.constant(weights), False, True)], [rows], "product")


def _products(network: ov.Model) -> list[Any]:
    """Return the matrix products of a network; in all families, weights are the right operand."""
    return [
        node
        for node in network.get_ordered_ops()
        if node.get_type_name() == "MatMul" and not node.get_attributes()["transpose_a"]
    ]


def _axis(product: Any) -> int:
    """Return the axis of the weights that a product sums over."""
    return int(product.get_attributes()["transpose_b"])


def _take_apart(network: ov.Model) -> None:
    """Split a weight matrix into constants, if products use slices of it, as in some attention."""
    for split in network.get_ordered_ops():
        if split.get_type_name() == "VariadicSplit" and _is_matrix(split.input_value(0).get_node()):
            matrix, axis = (split.input_value(place).get_node().data for place in (0, 1))
            lengths = [part.partial_shape[int(axis)].get_length() for part in split.outputs()]
            parts = np.split(matrix, np.cumsum(lengths)[:-1], int(axis))
            for output, part in zip(split.outputs(), parts, strict=True):
                output.replace(ops.constant(np.ascontiguousarray(part)).output(0))


def _multiply_patches(cut: Patches) -> Any:
    rounded, scales = _rounded(cut.weights, axis=1)
    made = ops.matmul(cut.bytes, _scaled(rounded, scales), False, True)
    # Subtract the product with the quantized weights, so that their rounding error has no effect on
    # pixels that are normalized to 0.
    return ops.subtract(made, ops.constant((rounded * scales) @ cut.zero))


def _rounded(
    weights: npt.NDArray[np.float32], axis: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Quantize weights to int8; return them with the scale of each output."""
    largest = np.abs(weights).max(axis=axis, keepdims=True)
    scales = np.maximum(largest / _LARGEST, _TINY).astype(np.float32)
    return np.rint(weights / scales).astype(np.int8), scales


def _scaled(rounded: npt.NDArray[np.int8], scales: npt.NDArray[np.float32]) -> Any:
    return ops.multiply(ops.convert(ops.constant(rounded), "f32"), ops.constant(scales))


def _is_int8(product: Any) -> bool:
    """Return whether the weights of a product were quantized by `_scaled`."""
    scaled = product.input_value(1).get_node()
    if scaled.get_type_name() != "Multiply":
        return False
    converted = scaled.input_value(0).get_node()
    return converted.get_type_name() == "Convert" and _is_constant(
        converted.input_value(0).get_node(), ov.Type.i8
    )


class SumScaledWeights(NamedTuple):
    """The weights of a product, as `shares * sums`.

    Attributes:
        shares: int8 weights divided by the sum over their output, in the shape of the weights. So
            the shares of an output sum up to 1, or to 0 if the sum is 0.
        sums: the sum of each output's int8 weights, times the output's scale: [outputs] float32.
    """

    shares: Any
    sums: Any

    @classmethod
    def from_product(cls, product: Any) -> SumScaledWeights:
        """Read the int8 weights of a product."""
        axis, scaled = _axis(product), product.input_value(1).get_node()
        converted, scales = (scaled.input_value(place).get_node() for place in (0, 1))
        weights = converted.input_value(0).get_node()
        sums = weights.data.sum(axis, np.int32, keepdims=True).astype(np.float32)
        sums[sums == 0] = _ALMOST_0
        shares = ops.multiply(converted, ops.constant(1 / sums))
        return cls(shares.output(0), ops.constant((sums * scales.data).squeeze(axis)))


class QuantizedTokens(NamedTuple):
    """Quantized activations of tokens, [..., channels]: each value is `least + width * steps`.

    Attributes:
        steps: integers from 0 to 255, divided by 255.
        least: least value of each token, [..., 1].
        width: width of each token's range, [..., 1].
    """

    steps: Any
    least: Any
    width: Any

    @classmethod
    def from_tokens(cls, tokens: Any) -> QuantizedTokens:
        """Quantize each token in its own range; pixels are uint8 already and keep their values."""
        if are_bytes(tokens):
            shares = ops.multiply(tokens, _number(1 / _STEPS))
            return cls(_quantized(shares).output(0), _number(0), _number(_STEPS))
        last = ops.constant(np.array([-1]))
        least, largest = ops.reduce_min(tokens, last, True), ops.reduce_max(tokens, last, True)
        # The width must not be 0, even if all values of a token are equal.
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

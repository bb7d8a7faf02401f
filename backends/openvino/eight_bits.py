"""8 bits: the weights of each product, with a scale for each of its outputs; nothing is calibrated.

What is multiplied with them OpenVINO quantises by itself, in groups along each token's own width:
so no vector depends on its batch mates. All else is computed in float32: with bfloat16 in its
place, OpenVINO quantises nothing but weights where there is AMX, and there a picture's vector
changes by 7e-4 of its length with the size of the batch.

Tables that rows are looked up in, as of tokens, are kept in float16, which moves no vector by 1e-6
of a cosine: OpenVINO then reads them where the file is mapped, and copies none of it.

See https://docs.openvino.ai/2026/openvino-workflow/model-optimization-guide/weight-compression.html
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops

# Of a network with such weights; the second where a machine quantises nothing else.
Arithmetic: TypeAlias = Literal["int8", "int8 weights"]

# Values that share a scale. OpenVINO quantises nothing for products that are narrower. ViT-B/32,
# batches of 16 on 2 cores with VNNI, against float32: groups of 32, 64 and 128 compute 1.7, 2.0 and
# 2.2 times as many pictures, and 1.9, 2.2 and 2.5 times as many texts.
_GROUP = 128
PROPERTIES = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": _GROUP}
_LARGEST = 127  # of 8 bits with a sign, as far below 0 as above


def compress(network: ov.Model) -> None:
    """Turn the weights of every product into 8 bits, and tables into 16, in place.

    Those that are so already stay.
    """
    for product, port in _operands(network):
        weights = port.get_source_output().get_node()
        if _is_matrix(weights):
            scaled = _in_8_bits(weights.data, _axis(product, port))
            port.replace_source_output(scaled.output(0))
    for lookup in network.get_ordered_ops():
        if lookup.get_type_name() == "Gather" and _is_matrix(lookup.input_value(0).get_node()):
            table = lookup.input_value(0).get_node().data
            lookup.input(0).replace_source_output(_in_float16(table).output(0))


def arithmetic(network: ov.Model) -> Arithmetic | None:
    """Say what a network computes in on this machine, as passes show; None without such weights."""
    widths = {
        weights.shape[_axis(product, port)]
        for product, port in _operands(network)
        if (weights := _weights_of(port.get_source_output().get_node())) is not None
    }
    if not widths:
        return None
    return "int8" if any(map(_quantises, sorted(widths))) else "int8 weights"


def product(weights: npt.NDArray[np.float32]) -> ov.Model:
    """Make the smallest network: rows times weights, [outputs, width]."""
    rows = ops.parameter([-1, weights.shape[1]], ov.Type.f32)
    return ov.Model([ops.matmul(rows, ops.constant(weights), False, True)], [rows], "product")


def _operands(network: ov.Model) -> Iterator[tuple[Any, Any]]:
    for operation in network.get_ordered_ops():
        if operation.get_type_name() == "MatMul":
            yield from ((operation, port) for port in operation.inputs())


def _axis(product: Any, port: Any) -> int:
    """Return along which axis of a matrix its product adds up."""
    index = port.get_index()
    transposed: bool = product.get_attributes()["transpose_b" if index else "transpose_a"]
    return int(transposed) if index else int(not transposed)


def _in_8_bits(weights: npt.NDArray[np.float32], axis: int) -> Any:
    largest = np.abs(weights).max(axis=axis, keepdims=True)
    scales = np.maximum(largest / _LARGEST, np.finfo(np.float32).tiny).astype(np.float32)
    rounded = np.rint(weights / scales).astype(np.int8)
    return ops.multiply(ops.convert(ops.constant(rounded), "f32"), ops.constant(scales))


def _in_float16(table: npt.NDArray[np.float32]) -> Any:
    largest = np.finfo(np.float16).max
    return ops.convert(ops.constant(table.clip(-largest, largest).astype(np.float16)), "f32")


def _weights_of(scaled: Any) -> npt.NDArray[np.int8] | None:
    if scaled.get_type_name() != "Multiply":
        return None
    converted = scaled.input_value(0).get_node()
    if converted.get_type_name() != "Convert":
        return None
    constant = converted.input_value(0).get_node()
    return constant.data if _is_constant(constant, ov.Type.i8) else None


def _is_matrix(node: Any) -> bool:
    return _is_constant(node, ov.Type.f32) and node.data.ndim == 2


def _is_constant(node: Any, kind: ov.Type) -> bool:
    return bool(node.get_type_name() == "Constant" and node.get_element_type() == kind)


@cache
def _quantises(width: int) -> bool:
    """Tell whether what is multiplied is quantised, which a machine may leave undone in silence."""
    weights, given = np.random.default_rng(0).standard_normal((2, 16, width)).astype(np.float32)
    network = product(weights)
    compress(network)
    in_groups, as_it_is = (
        ov.Core().compile_model(network, "CPU", {**PROPERTIES, **group})(given)[0]
        for group in ({}, {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 0})
    )
    return not np.array_equal(in_groups, as_it_is)

"""Makes all causal attention layers share one mask; OpenVINO would compute a mask in each layer.

A causal mask depends only on the number of tokens. For attention with the attribute `causal`,
OpenVINO computes the mask in every layer, with a dozen small operations, and then cannot fuse the
attention. With a shared mask, vectors are the same, bit for bit.

See https://docs.openvino.ai/2026/documentation/openvino-ir-format/operation-sets/operation-specs/sequence/scaled-dot-product-attention.html
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops


def share_causal_mask(network: ov.Model) -> None:
    """Replace the attribute `causal` of all attention layers by one shared mask, in place.

    Queries and keys must have the same length in all layers.
    """
    layers = [
        op
        for op in network.get_ordered_ops()
        if op.get_type_name() == "ScaledDotProductAttention" and op.get_attributes()["causal"]
    ]
    if not layers:
        return
    mask = _causal_mask(layers[0].input_value(0))
    for causal in layers:
        query, key, value, *rest = causal.input_values()  # rest: mask and scale, if given
        scale = rest[1:]
        shared = ops.scaled_dot_product_attention(query, key, value, mask, *scale, causal=False)
        shared.set_friendly_name(causal.get_friendly_name())
        causal.output(0).replace(shared.output(0))
    network.validate_nodes_and_infer_types()


def _causal_mask(query: Any) -> Any:
    """Return the additive mask [length, length] float32 for queries [..., length, width]."""
    first, step, second_last = (ops.constant(np.int32(number)) for number in (0, 1, -2))
    length = ops.gather(ops.shape_of(query, "i32"), second_last, first)
    places = ops.range(first, length, step, "i32")
    seen = ops.greater_equal(ops.unsqueeze(places, step), ops.unsqueeze(places, first))
    return ops.select(seen, ops.constant(np.float32(0)), ops.constant(np.float32(-np.inf)))

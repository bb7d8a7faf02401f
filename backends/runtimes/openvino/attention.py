"""Gives all causal attention layers one shared mask, where OpenVINO would compute one in each.

A causal mask depends on the number of tokens alone. For operations with the attribute `causal`,
OpenVINO computes the mask in every layer, in a dozen small operations, and can no longer fuse the
attention. The vectors are the same, bit for bit.

See https://docs.openvino.ai/2026/documentation/openvino-ir-format/operation-sets/operation-specs/sequence/scaled-dot-product-attention.html
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops


def share_causal_mask(network: ov.Model) -> None:
    """Replace the attribute `causal` of all attention by one shared mask, in place.

    Queries and keys must have one length in all layers, as for a text.
    """
    layers = [op for op in network.get_ordered_ops() if _is_causal(op)]
    if not layers:
        return
    mask = _causal_mask(layers[0].input_value(0))
    for causal in layers:
        query, key, value, *rest = causal.input_values()  # optional: mask and scale
        scale = rest[1:]
        shared = ops.scaled_dot_product_attention(query, key, value, mask, *scale, causal=False)
        shared.set_friendly_name(causal.get_friendly_name())
        causal.output(0).replace(shared.output(0))
    network.validate_nodes_and_infer_types()


def _is_causal(op: Any) -> bool:
    attention = op.get_type_name() == "ScaledDotProductAttention"
    return attention and bool(op.get_attributes()["causal"])


def _causal_mask(query: Any) -> Any:
    """Return the additive mask for queries [..., length, width]: [length, length] float32."""
    first, step, second_last = (ops.constant(np.int32(number)) for number in (0, 1, -2))
    length = ops.gather(ops.shape_of(query, "i32"), second_last, first)
    places = ops.range(first, length, step, "i32")
    seen = ops.greater_equal(ops.unsqueeze(places, step), ops.unsqueeze(places, first))
    return ops.select(seen, ops.constant(np.float32(0)), ops.constant(np.float32(-np.inf)))

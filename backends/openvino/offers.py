"""What this CPU computes in, and how fast: each precision by real passes over a product."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import openvino as ov

from backends.model import Precision
from backends.openvino import eight_bits

_WIDTH, _ROWS = 768, 256  # as in a batch of ViT-B/32
_PASSES = 5


class Names(NamedTuple):
    """What OpenVINO calls a precision: as a capability of a device, and in its hint and graph.

    8 bits have no name there: the weights are what asks for them (see `eight_bits.arithmetic`).
    """

    capability: str
    short: str | None = None


NAMES: dict[Precision, Names] = {
    "float32": Names("FP32", "f32"),
    "bfloat16": Names("BF16", "bf16"),
    "float16": Names("FP16", "f16"),
    "int8": Names("INT8"),
}


def properties_of(precision: Precision) -> Mapping[str, Any]:
    """Return what makes OpenVINO compute in a precision."""
    if precision == "int8":
        return eight_bits.PROPERTIES
    # Said aloud, as OpenVINO takes bfloat16 by itself where the processor has it.
    return {"INFERENCE_PRECISION_HINT": NAMES[precision].short}


@cache
def precisions() -> tuple[Precision, ...]:
    """Return what this CPU computes in by instructions of its own, as a pass of each shows."""
    found = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    named = [name for name, names in NAMES.items() if names.capability in found]
    return tuple(name for name in named if _passes_of(name))


@cache
def factors() -> Mapping[Precision, float]:
    """Return how many times as fast as in float32 a product is in the others, measured now."""
    passes = {name: computed for name in precisions() if (computed := _passes_of(name))}
    best = dict.fromkeys(passes, float("inf"))
    for _ in range(_PASSES):  # in turns, as others may be at work
        for name, computed in passes.items():
            started_s = time.perf_counter()
            computed.infer()
            best[name] = min(best[name], time.perf_counter() - started_s)
    return {name: best["float32"] / best[name] for name in passes if name != "float32"}


@cache
def _passes_of(precision: Precision) -> Any:
    """Compute a product; return what does it again, or None where the machine cannot."""
    network = eight_bits.product(np.ones((_WIDTH, _WIDTH), np.float32))
    if precision == "int8":
        eight_bits.compress(network)
    try:
        compiled = ov.Core().compile_model(network, "CPU", dict(properties_of(precision)))
        request = compiled.create_infer_request()
        request.infer([np.ones((_ROWS, _WIDTH), np.float32)])
    except RuntimeError:  # it compiles, and then has no code
        return None
    return request

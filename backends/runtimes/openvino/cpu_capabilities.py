"""What this CPU computes in, and how fast: each precision by real passes over a product."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from backends.model import Precision
from backends.quantization import int8
from backends.runtimes.openvino.core import capabilities, compile_network

_ROWS, _WIDTH, _OUTPUTS = 128, 768, 3072  # as the largest products of ViT-B/32 are
_PASSES = 5


class Names(NamedTuple):
    """What OpenVINO calls a precision: as a capability of a device, and in its hint and graph.

    8 bits have no name there: the network asks for them (see `eight_bits.quantize`).
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
        return int8.PROPERTIES
    # Said aloud, as OpenVINO takes bfloat16 by itself where the processor has it.
    return {"INFERENCE_PRECISION_HINT": NAMES[precision].short}


def precisions() -> tuple[Precision, ...]:
    """Return what this CPU computes in by instructions of its own, as a pass of each shows."""
    return tuple(_best_s())


def speedups() -> Mapping[Precision, float]:
    """Return how many times as fast as in float32 a product is in the others."""
    best_s = _best_s()
    return {name: best_s["float32"] / best_s[name] for name in best_s if name != "float32"}


@cache
def _best_s() -> Mapping[Precision, float]:
    """Return how long a product takes at best, in each precision that the CPU computes in."""
    found = capabilities()
    named = [name for name, names in NAMES.items() if names.capability in found]
    passes = {name: request for name in named if (request := _pass_of(name))}
    best_s = dict.fromkeys(passes, float("inf"))
    for _ in range(_PASSES):  # in turns, as others may be at work
        for name, request in passes.items():
            started_s = time.perf_counter()
            request.infer()
            best_s[name] = min(best_s[name], time.perf_counter() - started_s)
    return best_s


def _pass_of(precision: Precision) -> Any:
    """Compute a product; return what does it again, or None where the machine cannot."""
    network = int8.product(np.ones((_OUTPUTS, _WIDTH), np.float32))
    if precision == "int8":
        int8.compress(network)
        int8.quantize(network)
    try:
        compiled = compile_network(network, properties_of(precision))
        request = compiled.create_infer_request()
        request.infer([np.ones((_ROWS, _WIDTH), np.float32)])
    except RuntimeError:  # it compiles, and then has no code
        return None
    return request

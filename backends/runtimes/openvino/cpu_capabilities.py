"""Measures which precisions this CPU supports, and how fast they are, with a matrix product."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from backends.model import Precision
from backends.quantization import int8
from backends.runtimes.openvino.core import capabilities, compile_network

_ROWS, _WIDTH, _OUTPUTS = 128, 768, 3072  # sizes of ViT-B/32's largest product
_PASSES = 5


class Names(NamedTuple):
    """OpenVINO's names of a precision: in capabilities, in the precision hint, and in its graph.

    int8 has no hint: operations of the network select it (see `int8.quantize_activations`).
    """

    capability: str
    short: str | None = None


NAMES: dict[Precision, Names] = {
    "float32": Names("FP32", "f32"),
    "bfloat16": Names("BF16", "bf16"),
    "float16": Names("FP16", "f16"),
    "int8": Names("INT8"),
}


def compile_properties(precision: Precision) -> Mapping[str, Any]:
    """Return the OpenVINO properties of a precision."""
    if precision == "int8":
        return int8.PROPERTIES
    # Always set: by default OpenVINO computes in bfloat16 if the processor supports it.
    return {"INFERENCE_PRECISION_HINT": NAMES[precision].short}


def precisions() -> tuple[Precision, ...]:
    """Return the precisions that this CPU supports, found by a forward pass in each precision."""
    return tuple(_best_s())


def speedups() -> Mapping[Precision, float]:
    """Return the speed of a product in each precision but float32, relative to float32."""
    best_s = _best_s()
    return {name: best_s["float32"] / best_s[name] for name in best_s if name != "float32"}


@cache
def _best_s() -> Mapping[Precision, float]:
    """Return the shortest time of a product in seconds, for each supported precision."""
    found = capabilities()
    supported = [name for name, names in NAMES.items() if names.capability in found]
    passes = {name: request for name in supported if (request := _compile_pass(name))}
    best_s = dict.fromkeys(passes, float("inf"))
    for _ in range(_PASSES):  # alternating, as the load of the machine may change
        for name, request in passes.items():
            started_s = time.perf_counter()
            request.infer()
            best_s[name] = min(best_s[name], time.perf_counter() - started_s)
    return best_s


def _compile_pass(precision: Precision) -> Any:
    """Compile and run a product; return a function that repeats the run, or None if it fails."""
    network = int8.product(np.ones((_OUTPUTS, _WIDTH), np.float32))
    if precision == "int8":
        int8.quantize_weights(network)
        int8.quantize_activations(network)
    try:
        compiled = compile_network(network, compile_properties(precision))
        request = compiled.create_infer_request()
        request.infer([np.ones((_ROWS, _WIDTH), np.float32)])
    except RuntimeError:  # compiling succeeds, but the first pass fails
        return None
    return request

"""OpenVINO's core object, a single one for each process: reads and compiles networks, thread-safe.

See https://docs.openvino.ai/2026/openvino-workflow/running-inference.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from machine import usable_cores

# OpenVINO's Python binding imports numpy when a type is first used. If two threads do so at the
# same time, they deadlock, and one holds the interpreter's lock. So use types here: only one thread
# runs when this module is imported.
ov.Type.f32.to_dtype()
ov.Type(np.float32)  # numpy's type to OpenVINO's, as for constants

# A core's CPU plugin sets a signal stack, large enough for AMX registers, in the first thread that
# uses the plugin. It frees the stack when the core is deleted. If there are two cores, a freed
# stack may stay set, depending on the order of deletion, and the next signal kills the process. So
# there is only one core.
_CORE = ov.Core()

# OpenVINO reuses the threads of a deleted network for the next network, even if that is compiled
# for another number of threads. So all networks are compiled for the same number.
_ONE_PASS_AT_A_TIME = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": 1,
    # Two networks may compute at the same time. If they were pinned to the same CPU cores, they
    # would wait for each other.
    "ENABLE_CPU_PINNING": False,
}


def capabilities() -> list[str]:
    """Return OpenVINO's names for the CPU's capabilities."""
    found: list[str] = _CORE.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return found


def read_network(path: Path) -> ov.Model:
    """Read a network; its weights are mapped from the file."""
    return _CORE.read_model(path)


def compile_network(
    network: ov.Model, properties: Mapping[str, Any], cores: int | None = None
) -> Any:
    """Compile a network for this CPU.

    Args:
        network: the network; the compiled copy is independent of it.
        properties: OpenVINO's properties, including the precision.
        cores: maximum number of cores; None for all cores of this process.

    Raises:
        RuntimeError: OpenVINO cannot compile the network. If the CPU lacks some instructions, only
            the first forward pass raises this error.
    """
    threads = {"INFERENCE_NUM_THREADS": cores or usable_cores()}
    return _CORE.compile_model(network, "CPU", {**_ONE_PASS_AT_A_TIME, **threads, **properties})

"""OpenVINO's core: one a process, and one way to compile by it; safe to use from many threads.

See https://docs.openvino.ai/2026/openvino-workflow/running-inference.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from machine import usable_cores

# OpenVINO's binding looks numpy up at the first use of a type, and two threads whose first uses
# meet wait for each other for ever, one with the interpreter's lock: here there is one thread.
ov.Type.f32.to_dtype()
ov.Type(np.float32)  # the other way round, as for constants

# A core's CPU plugin gives the thread that first needs it a stack for signals, as large as AMX's
# registers ask for, and takes it away with itself. Of two that end in another order than they
# began in, the thread keeps a stack that is no more, and the next signal ends the process.
_CORE = ov.Core()

# Threads that no network needs any more are given to the next, however it was compiled: so all are
# compiled for the same.
_ONE_PASS_AT_A_TIME = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": 1,
    # Two networks compute side by side: each pinned to the same cores would wait for the other.
    "ENABLE_CPU_PINNING": False,
}


def capabilities() -> list[str]:
    """Return what the CPU can compute in, by OpenVINO's names."""
    found: list[str] = _CORE.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return found


def read_network(path: Path) -> ov.Model:
    """Read a network; its weights stay in the file, and are mapped from there."""
    return _CORE.read_model(path)


def compile_network(
    network: ov.Model, properties: Mapping[str, Any], cores: int | None = None
) -> Any:
    """Compile a network for this CPU.

    Args:
        network: read or made; what is compiled does not change with it.
        properties: the precision, as OpenVINO is told.
        cores: how many it may use; None for all that this process may.

    Raises:
        RuntimeError: OpenVINO cannot; or its first pass does, where the CPU cannot.
    """
    threads = {"INFERENCE_NUM_THREADS": cores or usable_cores()}
    return _CORE.compile_model(network, "CPU", {**_ONE_PASS_AT_A_TIME, **threads, **properties})

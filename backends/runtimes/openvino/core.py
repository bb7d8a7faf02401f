"""OpenVINO's core, one a process, and compiling; thread-safe.

See https://docs.openvino.ai/2026/openvino-workflow/running-inference.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from machine import usable_cores

# OpenVINO's binding imports numpy at the first use of a type. Two threads that do so at once
# deadlock, one of them with the interpreter's lock. At this import there is one thread.
ov.Type.f32.to_dtype()
ov.Type(np.float32)  # the other direction, as for constants

# The CPU plugin of a core sets a signal stack, large enough for AMX registers, in the first thread
# that uses it, and frees it at its end. If two cores end in another order than they began, a freed
# stack stays set, and the next signal kills the process. So there is one core.
_CORE = ov.Core()

# OpenVINO gives the threads of a deleted network to the next one, also if that was compiled for
# another number of threads. So all networks are compiled for the same number.
_ONE_PASS_AT_A_TIME = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": 1,
    # Two networks compute at the same time: pinned to the same cores they would wait for each
    # other.
    "ENABLE_CPU_PINNING": False,
}


def capabilities() -> list[str]:
    """Return the CPU's capabilities, by OpenVINO's names."""
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
        properties: OpenVINO's properties, with the precision.
        cores: maximum number of cores; None for all cores of this process.

    Raises:
        RuntimeError: OpenVINO cannot compile it. For some missing instructions only the first pass
            raises.
    """
    threads = {"INFERENCE_NUM_THREADS": cores or usable_cores()}
    return _CORE.compile_model(network, "CPU", {**_ONE_PASS_AT_A_TIME, **threads, **properties})

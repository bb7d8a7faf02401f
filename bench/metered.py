"""Runs a server and sums the time of its forward passes: `python -m bench.metered FILE TARGET`.

FILE gets one float64, the seconds so far. TARGET is a script, or a module with a colon in front. It
measures OpenVINO's own call, in any server. The time is processor time of the whole process, as
OpenVINO computes in threads of its own: use one client, so that other threads are idle meanwhile.
"""

from __future__ import annotations

import runpy
import struct
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = struct.Struct("d")


def read_seconds(path: Path) -> float:
    """Return the seconds that a server has written to FILE."""
    return float(SECONDS.unpack(path.read_bytes())[0])


def main() -> None:
    """Wrap OpenVINO's call, and run the server."""
    import openvino as ov  # imported here, as it takes a second and `read_seconds` does not need it

    path, target = sys.argv[1:]
    ov.Type(np.float32)  # see `backends/runtimes/openvino/core.py`
    plain = ov.InferRequest.infer
    seconds = 0.0
    with Path(path).open("wb", buffering=0) as file:

        def infer(*arguments: Any, **options: Any) -> Any:
            nonlocal seconds
            started_s = time.process_time()
            results = plain(*arguments, **options)
            seconds += time.process_time() - started_s
            file.seek(0)
            file.write(SECONDS.pack(seconds))
            return results

        ov.InferRequest.infer = infer
        sys.argv = [target.removeprefix(":")]
        if target.startswith(":"):
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(target, run_name="__main__")


if __name__ == "__main__":
    main()

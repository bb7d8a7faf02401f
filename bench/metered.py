"""Runs a server and adds up the time of its passes: `python -m bench.metered FILE TARGET`.

FILE gets one float64, the seconds so far. TARGET is a script, or a module with a colon in front.
What is measured is OpenVINO's own call, so that it holds for whatever calls it. The time is that of
the whole process, as OpenVINO computes in threads of its own: ask with one client, who leaves the
other threads nothing to do in the meantime.
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
    """Return what a server has written so far."""
    return float(SECONDS.unpack(path.read_bytes())[0])


def main() -> None:
    """Put the meter in, and become the server."""
    import openvino as ov  # takes a second, and who reads the seconds needs none of it

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

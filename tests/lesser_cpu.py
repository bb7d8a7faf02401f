"""Emulates a CPU with fewer instructions, by limiting oneDNN."""

import os
import subprocess
import sys

from tests.service import ROOT


def said_on_a_lesser_cpu(lesser: str, program: str, *arguments: object) -> str:
    """Return the output of a program on a CPU up to `lesser`; "" for this CPU."""
    answer = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": lesser},
        capture_output=True,
        text=True,
        check=True,
    )
    return answer.stdout.strip()

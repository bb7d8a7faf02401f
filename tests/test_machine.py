import subprocess
import sys

from machine import usable_cores
from tests.service import ROOT

# Allocates and frees 16 MB a hundred times, and prints the page faults that this took.
PROGRAM = """
import numpy, resource
from machine import keep_freed_memory
{call}
numpy.ones(1 << 21)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100): numpy.ones(1 << 21)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(call: str) -> int:
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(call=call)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(answer.stdout)


def test_at_least_one_core_is_usable() -> None:
    assert usable_cores() >= 1


def test_kept_memory_takes_no_page_faults() -> None:
    assert page_faults("keep_freed_memory()") < 0.1 * page_faults("")

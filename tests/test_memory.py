"""Forward passes keep no more memory than the largest needs."""

import sys
from pathlib import Path

import pytest

from tests.lesser_cpu import said_on_a_lesser_cpu

# A network whose rows are wide within it; each size of a batch, and what it added to the process.
GROW = """
import sys
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from backends.model import ModelOptions
from backends.runtimes.openvino.network import OpenVinoNetwork
from machine import keep_freed_memory

def weights(*shape):
    return ops.constant(np.random.default_rng(0).standard_normal(shape).astype(np.float32))

def used_mb():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Anonymous:"))

keep_freed_memory()
rows = ops.parameter([-1, 64], ov.Type.f32)
hidden = rows
for _ in range(3):
    wide = ops.gelu(ops.matmul(hidden, weights(64, 2048), False, False), "erf")
    hidden = ops.relu(ops.matmul(wide, weights(2048, 64), False, False))
path = Path(sys.argv[1]) / "wide.xml"
ov.save_model(ov.Model([hidden], [rows], "wide"), path, compress_to_fp16=False)
network = OpenVinoNetwork(path, ModelOptions())
network(np.ones((1, 64), np.float32))
before = used_mb()
for size in map(int, sys.argv[2:]):
    network(np.ones((size, 64), np.float32))
print(used_mb() - before)
"""


def added_mb(folder: Path, *sizes: int) -> float:
    return float(said_on_a_lesser_cpu("", GROW, folder, *sizes))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's counts are Linux's")
def test_batches_that_grow_leave_no_more_than_the_largest(tmp_path: Path) -> None:
    at_once = added_mb(tmp_path, 4096)
    by_and_by = added_mb(tmp_path, *range(256, 4097, 256))

    assert at_once > 30
    assert by_and_by < 1.3 * at_once

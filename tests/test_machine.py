import os
import subprocess
import sys
from pathlib import Path

import pytest

from machine import usable_cores
from tests.service import ROOT, environment

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


V1 = "4:memory:/docker/abc\n3:cpuset:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/system.slice\n"
V2 = "0::/kubepods/pod1/abc\n"


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        (V2, {"cpu.max": "300000 100000\n"}, 3),
        (V2, {"cpu.max": "150000 100000\n"}, 2),
        (V2, {"cpu.max": "50000 100000\n"}, 1),
        (V2, {"cpu.max": "max 100000\n"}, 8),
        (V2, {"kubepods/pod1/cpu.max": "200000 100000", "kubepods/pod1/abc/cpu.max": "max 1"}, 2),
        (V2, {}, 8),
        (V1, {"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        (V1, {"cpu/cpu.cfs_quota_us": "25000\n", "cpu/cpu.cfs_period_us": "10000\n"}, 3),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        (
            V1,
            {
                "cpu/docker/abc/cpu.cfs_quota_us": "200000\n",
                "cpu/docker/abc/cpu.cfs_period_us": "100000\n",
                "cpu/cpu.cfs_quota_us": "-1\n",
                "cpu/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
    ],
)
def test_a_limit_of_the_container_counts_in_both_versions_of_cgroups(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    membership: str,
    files: dict[str, str],
    cores: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "membership").write_text(membership)

    assert usable_cores(tmp_path, tmp_path / "membership") == cores


# Loads a model, and prints how many threads OpenVINO, numpy's libraries and torch use.
THREADS = """
import os, sys
os.environ.pop("OMP_NUM_THREADS", None)
{limited}
from backends.load import load_model
from backends.runtimes.openvino import core
from config import Settings
asked = []
compile_model = core._CORE.compile_model
class Watched:
    def __getattr__(self, name):
        return getattr(core_of_openvino, name)
    def compile_model(self, *arguments):
        asked.append(compile_model(*arguments))
        return asked[-1]
core_of_openvino, core._CORE = core._CORE, Watched()
load_model(Settings())
import threadpoolctl, torch
compiled = {{one.get_property("INFERENCE_NUM_THREADS") for one in asked}}
pools = {{pool["num_threads"] for pool in threadpoolctl.threadpool_info()}}
print(compiled, pools, torch.get_num_threads())
"""


@pytest.mark.parametrize(
    "limited",
    [
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
        "import machine; machine._cpu_limit = lambda *_: 0.5",
    ],
    ids=["cpuset", "quota"],
)
def test_threads_follow_the_cores_that_are_usable(limited: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", THREADS.format(limited=limited)],
        cwd=ROOT,
        env=environment(MODELS_DIR=ROOT / "demo/models"),
        capture_output=True,
        text=True,
        check=True,
    )

    assert answer.stdout.splitlines()[-1] == "{1} {1} 1"


def test_kept_memory_takes_no_page_faults() -> None:
    assert page_faults("keep_freed_memory()") < 0.1 * page_faults("")

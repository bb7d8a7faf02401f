"""Faults of OpenVINO in a process: a deadlock at the start, and a crash at the stop."""

import re
import subprocess
import sys

from tests.service import ROOT

# Eight, and a long turn for each thread, so that first uses that can meet do meet.
MEET = """
import sys, threading
import backends.runtimes.openvino.core
import openvino

def use():
    together.wait()
    openvino.Type.f32.to_dtype()

sys.setswitchinterval(1)
together = threading.Barrier(8)
threads = [threading.Thread(target=use) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("all came back")
"""

# What it takes to load a model that is let go, and a signal to the thread that loaded it.
SIGNAL = """
import os, signal
from backends.runtimes.openvino.cpu_capabilities import speedups

signal.signal(signal.SIGTERM, lambda *_: print("heard"))
speedups()
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_first_uses_in_many_threads_come_back() -> None:
    command = [sys.executable, "-c", MEET]
    processes = [  # in more than half of them they met
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    try:
        outputs = [process.communicate(timeout=60)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()

    assert outputs == ["all came back\n"] * 4


def test_a_signal_is_heard_after_networks_were_let_go() -> None:
    command = [sys.executable, "-c", SIGNAL]
    heard = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    assert (heard.returncode, heard.stdout) == (0, "heard\n")


def test_all_networks_are_compiled_in_one_place() -> None:
    """Threads of a network that is let go, pinned to cores, would be handed on to the next one."""
    who = [
        path
        for path in ROOT.rglob("backends/**/*.py")
        if re.search(r"compile_model\(|Core\(", path.read_text())
    ]

    assert [path.name for path in who] == ["core.py"]

"""The first use of OpenVINO's types by the threads of two networks, which once hung a start."""

import subprocess
import sys

from tests.service import ROOT

# Eight, and a long turn for each thread, so that first uses that can meet do meet.
MEET = """
import sys, threading
import backends.openvino.runtime
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

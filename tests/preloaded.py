"""Programs of this project, each in a fork of a process that has imported torch: it takes seconds.

What reads the environment while it is imported is not there yet, so each fork has its own. Nor is
openvino: it starts a thread that imports modules, and a fork would wait for their locks for ever. A
fork's jobs (`backends/jobs.py`) are forks of a process like it.
"""

import io
import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.service import ROOT

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["torch._dynamo", "torch.distributed.tensor", "torchvision", "sklearn.metrics"]
)
_JOB = (sys.executable, "-m")
_TEMPLATE_JOB = "backends.families.chat_template"  # bounds its memory, and needs no torch
_TIMEOUT_S = 300
_run_process = subprocess.run


def run(
    program: Sequence[str], environment: Mapping[str, str], stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run what follows `python` on a command line, such as `-m fetch.layouts`, to its end.

    Raises:
        TimeoutExpired: it has not ended after five minutes.
    """
    with TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        fork = _FORKS.Process(target=_main, args=(program, dict(environment), stdin, outputs))
        fork.start()
        fork.join(_TIMEOUT_S)
        if fork.is_alive():
            fork.kill()
            raise subprocess.TimeoutExpired(program, _TIMEOUT_S)
        returncode = fork.exitcode or 0
        stdout, stderr = (path.read_text() for path in outputs)
    return subprocess.CompletedProcess(program, returncode, stdout, stderr)


def _main(
    program: Sequence[str], environment: dict[str, str], stdin: str, outputs: Sequence[Path]
) -> None:
    for descriptor, path in enumerate(outputs, start=1):
        with path.open("w") as output:
            os.dup2(output.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.stdin = io.StringIO(stdin)
    subprocess.run = _run_job  # type: ignore[assignment]
    if program[0] == "-m":
        sys.argv = list(program[1:])
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(program)
        runpy.run_path(program[0], run_name="__main__")


def _run_job(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a job of this project in a fork, without its time limit; other commands as ever."""
    if tuple(command[:2]) != _JOB or command[2] == _TEMPLATE_JOB:
        return _run_process(command, **options)
    return run(command[1:], options["env"] or os.environ, options["input"])

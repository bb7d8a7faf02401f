"""Programs of this project, each in a fork of a process that has imported the model libraries.

Openvino is not there: it starts a thread that imports modules, and a fork would wait for their
locks for ever. A fork's jobs (`backends/jobs.py`) are forks of the same process.
"""

from __future__ import annotations

import importlib
import io
import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from backends import jobs
from tests.service import ROOT

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        *("torch._dynamo", "torch.distributed.tensor", "torchvision", "sklearn.metrics"),
        *("transformers.modeling_utils", "sentence_transformers", "open_clip"),
    ]
)
# A start also asks which other forks have ended, and an exit status can be read once.
_ONE_AT_A_TIME = threading.Lock()
_TEMPLATE_JOB = "backends.families.chat_template"  # bounds its memory, and needs no torch
_TIMEOUT_S = 300
_run_in_process = jobs._run


def run(
    program: Sequence[str], environment: Mapping[str, str], stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run what follows `python` on a command line, such as `-m fetch.layouts`, to its end.

    Raises:
        TimeoutExpired: nothing has come of it in five minutes.
    """
    own_end, of_fork = _FORKS.Pipe()
    with TemporaryDirectory() as folder, own_end, of_fork:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        fork = _FORKS.Process(
            target=_main, args=(program, dict(environment), stdin, outputs, of_fork)
        )
        with _ONE_AT_A_TIME:
            fork.start()
        while fork.sentinel not in (ready := wait([own_end, fork.sentinel], _TIMEOUT_S)):
            if not ready:
                fork.kill()
                raise subprocess.TimeoutExpired(program, _TIMEOUT_S)
            own_end.send(run(*own_end.recv()))
        with _ONE_AT_A_TIME:
            fork.join()
            returncode = fork.exitcode or 0
        stdout, stderr = (path.read_text() for path in outputs)
    return subprocess.CompletedProcess(program, returncode, stdout, stderr)


def _main(
    program: Sequence[str],
    environment: dict[str, str],
    stdin: str,
    outputs: Sequence[Path],
    parent: Connection[Any, Any],
) -> None:
    for descriptor, path in enumerate(outputs, start=1):
        with path.open("w") as output:
            os.dup2(output.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    _read_environment()
    os.chdir(ROOT)
    sys.stdin = io.StringIO(stdin)
    jobs._run = partial(_run_job, parent)
    if program[0] == "-m":
        sys.argv = list(program[1:])
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(program)
        runpy.run_path(program[0], run_name="__main__")


def _read_environment() -> None:
    """Let the libraries read the environment, as if they were imported now."""
    constants = importlib.reload(sys.modules["huggingface_hub.constants"])
    hub = importlib.reload(sys.modules["transformers.utils.hub"])
    copies = {
        "huggingface_hub.utils.tqdm": (constants, "HF_HUB_DISABLE_PROGRESS_BARS"),
        "transformers.dynamic_module_utils": (hub, "HF_MODULES_CACHE"),
    }
    for module, (source, name) in copies.items():
        setattr(sys.modules[module], name, getattr(source, name))


def _run_job(
    parent: Connection[Any, Any],
    module: str,
    stdin: str,
    environment: Mapping[str, str] | None,
    timeout_s: float | None,
) -> tuple[int, str, str]:
    """Run a job of this project in a fork of the parent's, without its time limit."""
    if module == _TEMPLATE_JOB:
        return _run_in_process(module, stdin, environment, timeout_s)
    parent.send((["-m", module], dict(environment or os.environ), stdin))
    answer: subprocess.CompletedProcess[str] = parent.recv()
    return answer.returncode, answer.stdout, answer.stderr

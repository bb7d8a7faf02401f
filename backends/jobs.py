"""A job for a process of its own: given as JSON, answered on the last line of its output.

What loads torch or a model at build time, or once, does so in a process that ends: nothing of it
stays in the memory of the one that asked.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from typing_extensions import override

from errors import ModelFolderError, describe_error

logger = logging.getLogger(__name__)

Job: TypeAlias = Mapping[str, object]
Answer: TypeAlias = dict[str, Any]

_ROOT = Path(__file__).resolve().parents[1]


class JobError(Exception):
    """A job was not done; the message says why."""


class JobRefusedError(JobError):
    """The model folder cannot be loaded, whatever else is tried with it."""


class JobKilledError(JobError):
    """Its process did not come to its end; the next may not either."""


def run_in_subprocess(
    module: str,
    job: Job,
    *,
    called: str,
    environment: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> Answer:
    """Run a module of this project, and wait for what it answers.

    Args:
        module: its name; run as a program, it calls `subprocess_main`.
        job: what it is to do.
        called: what errors call it, such as "the conversion".
        environment: by default, that of this process.
        timeout_s: after which it is killed.

    Raises:
        JobRefusedError: it said that the model folder cannot be loaded.
        JobError: it said that it cannot be done, or ended without an answer.
    """
    try:
        process = subprocess.run(  # noqa: S603 - a module of ours, and no shell
            [sys.executable, "-m", module],
            cwd=_ROOT,
            env=environment,
            input=json.dumps(job),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired as error:
        raise JobKilledError(f"{called} did not end in {timeout_s:g} s") from error
    return _answer_of(process, called)


def _answer_of(process: subprocess.CompletedProcess[str], called: str) -> Answer:
    if process.returncode < 0:
        raise JobKilledError(
            f"{called} was killed by signal {-process.returncode}, as for want of memory"
        )
    if process.returncode != 0:
        end = process.stderr.strip().rpartition("\n")[2]
        raise JobError(f"{called} ended with {process.returncode}: {end}")
    try:
        answer: Answer = json.loads(process.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise JobError(f"{called} ended without an answer") from error
    for warning in answer.pop("warnings", []):
        logger.warning("%s", warning)
    if "error" in answer:
        raise (JobRefusedError if answer.get("refused") else JobError)(answer["error"])
    return answer


def subprocess_main(do: Callable[[Answer], Answer]) -> None:
    """Do the job that standard input describes, at the other end of `run_in_subprocess`."""
    warned = _Warnings()
    logging.getLogger("backends").addHandler(warned)
    try:
        answer = do(json.load(sys.stdin))
    except Exception as error:  # noqa: BLE001 - the process that waits for it tells the reason
        refused = isinstance(error, ModelFolderError)
        answer = {"error": describe_error(error), "refused": refused}
    sys.stdout.write(f"\n{json.dumps({'warnings': list(warned.messages), **answer})}\n")


class _Warnings(logging.Handler):
    """Keeps what is warned of, each once, for the process that waits."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: dict[str, None] = {}

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.messages[record.getMessage()] = None

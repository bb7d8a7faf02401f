"""Runs jobs, each in a separate process.

A process reads the job's parameters as JSON from standard input, and writes its answer as the last
line of standard output. Jobs load torch or a model; when the process ends, its memory is freed.
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

Answer: TypeAlias = dict[str, Any]

_ROOT = Path(__file__).resolve().parents[1]


class JobError(Exception):
    """A job failed; the message contains the reason."""


class JobRefusedError(JobError):
    """The job could not load the model folder, and no other runtime can load it either."""


class JobKilledError(JobError):
    """The job's process was killed, or did not end before its timeout."""


def run_in_subprocess(
    module: str,
    job: Mapping[str, object],
    *,
    called: str,
    environment: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> Answer:
    """Run a module of this project in a separate process, and return its answer.

    Args:
        module: the module's name; the module must call `subprocess_main` when run as a program.
        job: the job's parameters.
        called: the job's name in errors, such as "the conversion".
        environment: the environment variables of the process; None for those of this process.
        timeout_s: seconds after which the process is killed; None for no timeout.

    Raises:
        JobRefusedError: the job reported that the model folder cannot be loaded.
        JobError: the job reported an error, or ended without an answer.
    """
    try:
        process = subprocess.run(  # noqa: S603 - a module of this project, without a shell
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
    return _read_answer(process, called)


def _read_answer(process: subprocess.CompletedProcess[str], called: str) -> Answer:
    if process.returncode < 0:
        raise JobKilledError(
            f"{called} was killed by signal {-process.returncode}, perhaps as memory ran out"
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
    """Do the job that standard input describes, and print its answer, in the job's process."""
    warned = _Warnings()
    logging.getLogger("backends").addHandler(warned)
    try:
        answer = do(json.load(sys.stdin))
    except Exception as error:  # noqa: BLE001 - the waiting process reports it
        refused = isinstance(error, ModelFolderError)
        answer = {"error": describe_error(error), "refused": refused}
    sys.stdout.write(f"\n{json.dumps({'warnings': list(warned.messages), **answer})}\n")


class _Warnings(logging.Handler):
    """A log handler that collects distinct warnings, to pass them to the calling process."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: dict[str, None] = {}

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.messages[record.getMessage()] = None

"""Runs jobs, each in a separate process.

A process reads the job's parameters as JSON from standard input, and writes its answer as the last
line of standard output. Jobs load torch or a model; when the process ends, its memory is freed.
"""

from __future__ import annotations

import json
import logging
import signal
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
# A service manager, or Ctrl-C, sends these to all processes of the service.
_STOPS = {signal.SIGTERM, signal.SIGINT}
_running: set[subprocess.Popen[str]] = set()


class JobError(Exception):
    """A job failed; the message contains the reason."""


class JobRefusedError(JobError):
    """The job could not load the model folder, and no other runtime can load it either."""


class JobKilledError(JobError):
    """The job's process was killed, or did not end before its timeout."""


class JobStoppedError(Exception):
    """The job's process got a signal to stop, as this process stops: the job did not fail."""


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
        JobStoppedError: `stop_jobs`, or a signal to stop, ended the process.
    """
    try:
        status, output, errors = _run(module, json.dumps(job), environment, timeout_s)
    except subprocess.TimeoutExpired as error:
        raise JobKilledError(f"{called} did not end in {timeout_s:g} s") from error
    return _read_answer(status, output, errors, called)


def _run(
    module: str, stdin: str, environment: Mapping[str, str] | None, timeout_s: float | None
) -> tuple[int, str, str]:
    """Run a module; return its exit status and what it wrote to stdout and stderr."""
    with subprocess.Popen(  # noqa: S603 - a module of this project, without a shell
        [sys.executable, "-m", module],
        cwd=_ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        _running.add(process)
        try:
            output, errors = process.communicate(stdin, timeout=timeout_s)
        finally:
            process.kill()  # does nothing to a process that has ended
            _running.discard(process)
    return process.returncode, output, errors


def stop_jobs() -> None:
    """Stop the processes of all jobs, which threads wait for: they would outlive this process."""
    for process in _running.copy():
        process.terminate()


def _read_answer(status: int, output: str, errors: str, called: str) -> Answer:
    if -status in _STOPS:
        raise JobStoppedError(f"{called} was stopped by signal {-status}")
    if status < 0:
        raise JobKilledError(f"{called} was killed by signal {-status}, perhaps as memory ran out")
    if status != 0:
        end = errors.strip().rpartition("\n")[2]
        raise JobError(f"{called} ended with {status}: {end}")
    try:
        answer: Answer = json.loads(output.splitlines()[-1])
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

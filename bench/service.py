"""Server processes: start, wait until ready, measure memory, stop."""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.client import Target

ROOT = Path(__file__).parent.parent
LOGS = ROOT / "build" / "bench"
LAUNCHER = (sys.executable, "app.py")

_START_LIMIT_S = 300.0
_POLL_S = 0.02
_STOP_LIMIT_S = 20.0
_SAMPLE_MEMORY_S = 0.2


@dataclass(frozen=True)
class Service:
    """A running server.

    Attributes:
        start_s: seconds from the start of the process until it is ready.
    """

    pid: int
    target: Target
    start_s: float


@contextmanager
def running(
    name: str, command: Sequence[str] = LAUNCHER, settings: Mapping[str, str] | None = None
) -> Iterator[Service]:
    """Run a server on a free local port, with its output in a file in LOGS.

    Args:
        name: name of the log file.
        command: the command, which reads HOST and PORT from the environment.
        settings: variables beside those of this process.

    Raises:
        RuntimeError: it ended before it was ready, or was not ready in time.
    """
    target = Target("127.0.0.1", free_port())
    address = {"HOST": target.host, "PORT": str(target.port)}
    log = log_path(name)
    with log.open("w") as output:
        started_s = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(settings or {}), **address},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_ready(process, target, log)
        yield Service(process.pid, target, time.perf_counter() - started_s)
    finally:
        stop(process)


def log_path(name: str) -> Path:
    """Return the log file of a process."""
    LOGS.mkdir(parents=True, exist_ok=True)
    return LOGS / f"{name}.log"


def stop(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Terminate a process; kill it if it does not end."""
    process.terminate()
    try:
        process.wait(_STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], target: Target, log: Path) -> None:
    limit_s = time.perf_counter() + _START_LIMIT_S
    while not is_ready(target):
        if process.poll() is not None or time.perf_counter() > limit_s:
            last_lines = "\n".join(log.read_text().splitlines()[-5:])
            raise RuntimeError(f"the server did not become ready; {log} ends with:\n{last_lines}")
        time.sleep(_POLL_S)


def is_ready(target: Target) -> bool:
    """Return whether a server is ready."""
    connection = http.client.HTTPConnection(target.host, target.port, timeout=1)
    try:
        connection.request("GET", "/.well-known/ready")
        return connection.getresponse().status < 300
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@dataclass(frozen=True)
class Memory:
    """Resident memory of a process and its children.

    Attributes:
        largest_mb: the maximum, measured every 0.2 s.
        peak_mb: the kernel's peak values since their start.
        file_mb: the part of mapped files (weights, libraries) at the end.
    """

    largest_mb: float
    peak_mb: float
    file_mb: float


class MemoryWatch:
    """Samples a process's memory until it is closed."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._largest_mb = 0.0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> Memory:
        """Stop, and return the measurement; the process must still run."""
        self._closed.set()
        self._thread.join()
        peak_mb, file_mb = (resident_mb(self._pid, name) for name in ("VmHWM", "RssFile"))
        return Memory(self._largest_mb, peak_mb, file_mb)

    def _run(self) -> None:
        while not self._closed.is_set():
            self._largest_mb = max(self._largest_mb, resident_mb(self._pid, "VmRSS"))
            self._closed.wait(_SAMPLE_MEMORY_S)


def resident_mb(pid: int, field: str) -> float:
    """Return the sum of a field of /proc/PID/status over a process and its children, in MB."""
    return sum(_field_mb(one, field) for one in _family(pid))


def _family(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from _family(int(child))


def _field_mb(pid: int, field: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0

"""One of several replicas: the service as a process on a loopback address of its own."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tests.service import ROOT, environment

# Of the service's metrics these tests read two.
_IN_FLIGHT = re.compile(r"^inference_queue_items\{.*\} (\S+)$", re.MULTILINE)
_ANSWERED = re.compile(r'^inference_requests_total\{.*code="200".*\} (\S+)$', re.MULTILINE)
_START_S = 60


def last_core() -> int:
    """The core for the replicas; the clients and the balancer have the others, if there are any."""
    return max(os.sched_getaffinity(0))


@dataclass
class Replica:
    """A replica that can be started, struck by a signal, and started again.

    All replicas are pinned to one core, where each computes with one thread. Each has a session of
    its own, and the kernel shares a core evenly among sessions (`sched_autogroup_enabled`): so
    each gets an equal share of it, also where cgroups cannot be written.

    Attributes:
        settings: variables of the service, beside its address.
    """

    address: str
    port: int
    core: int
    log: Path
    settings: dict[str, object] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] = field(init=False, repr=False)

    def start(self) -> None:
        """Start it; it is ready later."""
        own = {**self.settings, "PORT": self.port}
        command = ("taskset", "--cpu-list", str(self.core), "env", f"HOST={self.address}")
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*command, sys.executable, "app.py"],
                cwd=ROOT,
                env=environment(**own),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        ends_s = time.monotonic() + _START_S
        while time.monotonic() < ends_s:
            assert self._process.poll() is None, self.log.read_text()
            if self._get("/.well-known/ready")[0] == 204:
                return
            time.sleep(0.1)
        raise TimeoutError(self.log.read_text())

    def strike(self, sign: signal.Signals) -> None:
        """Send a signal while requests are in flight here, as its own metrics show."""
        ends_s = time.monotonic() + _START_S
        while not sum(self._read(_IN_FLIGHT)):
            assert time.monotonic() < ends_s, f"{self.address}: nothing was ever in flight"
        self._process.send_signal(sign)

    def wake(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def wait_for_end(self) -> None:
        self._process.wait(timeout=_START_S)

    def stop(self) -> None:
        """Stop it while requests are in flight."""
        self.strike(signal.SIGTERM)
        self.wait_for_end()
        assert self._process.returncode == 0, self.log.read_text()

    def answered(self) -> float:
        """Requests that it has answered with vectors since its start."""
        return sum(self._read(_ANSWERED))

    def metrics(self) -> set[str]:
        """The names of what it measures."""
        return set(re.findall(r"^# TYPE (\w+)", self._get("/metrics")[1], re.MULTILINE))

    def end(self) -> None:
        """End it, whatever state it is in, if it was ever started."""
        if hasattr(self, "_process"):
            self._process.kill()
            self._process.wait()

    def _read(self, metric: re.Pattern[str]) -> list[float]:
        return [float(value) for value in metric.findall(self._get("/metrics")[1])]

    def _get(self, path: str) -> tuple[int, str]:
        """Status and body; 0 where nobody listens."""
        try:
            with closing(http.client.HTTPConnection(self.address, self.port, timeout=5)) as client:
                client.request("GET", path)
                answer = client.getresponse()
                return answer.status, answer.read().decode()
        except OSError:
            return 0, ""

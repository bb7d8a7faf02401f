"""The service as people run it: a process of its own on a free port."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.conversion import fingerprint

ROOT = Path(__file__).parent.parent
# Each model is converted once for all tests, and anew when the code has changed: a start would not.
CONVERTED = ROOT / "build" / "test-converted" / fingerprint.digest_code()[:8]
SERVING_ONLY = ROOT / "tests" / "serving_only"  # as PYTHONPATH: what serving needs, and no more
LAUNCHER = (sys.executable, "app.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**settings: object) -> dict[str, str]:
    own = {"RUNTIME_CACHE_DIR": CONVERTED, **settings}
    return {**os.environ, **{name: str(value) for name, value in own.items()}}


@dataclass
class Service:
    """A running service."""

    port: int
    process: subprocess.Popen[str]
    log: Path

    def connect(self) -> closing[http.client.HTTPConnection]:
        """A connection for a `with`, which closes it however the test goes on."""
        return closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30))

    def request(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        with self.connect() as connection:
            return ask(connection, method, path, body, headers or {})

    def metrics(self) -> str:
        with self.connect() as connection:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()

    def vectorize(self, **body: object) -> tuple[int, Any]:
        return self.request("POST", "/vectorize", body, {"Content-Type": "application/json"})


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: object,
    headers: Mapping[str, str],
) -> tuple[int, Any]:
    """Send one request on an open connection; the answer's body parsed where there is one."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode() if body else None
    connection.request(method, path, content, dict(headers))
    answer = connection.getresponse()
    raw = answer.read()
    return answer.status, json.loads(raw) if raw else None


def run_to_end(command: Sequence[str], **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a command with the settings of the tests, such as a start that fails, to its end."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextmanager
def running(log: Path, command: Sequence[str] = LAUNCHER, **settings: object) -> Iterator[Service]:
    """Start the service, wait until it is ready, and stop it at the end."""
    with starting(log, command, **settings) as service:
        wait_until_ready(service)
        yield service


@contextmanager
def starting(log: Path, command: Sequence[str] = LAUNCHER, **settings: object) -> Iterator[Service]:
    """Start the service, and stop it at the end."""
    port = free_port()
    with log.open("w") as output:
        process = subprocess.Popen(
            [part.format(port=port) for part in command],
            cwd=ROOT,
            env=environment(**{"HOST": "127.0.0.1", "PORT": port, **settings}),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        yield Service(port, process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def wait_until_ready(service: Service, timeout_s: float = 120) -> None:
    ends_s = time.monotonic() + timeout_s
    while time.monotonic() < ends_s:
        assert service.process.poll() is None, service.log.read_text()
        try:
            if service.request("GET", "/.well-known/ready")[0] == 204:
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(service.log.read_text())

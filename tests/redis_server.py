"""A real redis-server on a free port, for the tests of what is shared by it."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from inference.store.address import Address
from tests.service import free_port

needs_redis = pytest.mark.skipif(
    not shutil.which("redis-server"), reason="redis-server is not installed"
)
NO_FILES = ("--save", "", "--appendonly", "no")
PASSWORD = "p@ss/word"


@dataclass
class RedisServer:
    """A server that can be stopped, gone on with and killed."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/0"

    @property
    def address(self) -> Address:
        return Address.of_url(self.url)

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)


@contextmanager
def redis_server(folder: Path, *options: str, port: int = 0) -> Iterator[RedisServer]:
    """Run a server that asks for a password, at a port of its own if none is named."""
    port = port or free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    process = subprocess.Popen(
        [*command, *NO_FILES, "--requirepass", PASSWORD, *options], stdout=subprocess.DEVNULL
    )
    try:
        _wait(port)
        yield RedisServer(port, process)
    finally:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
        process.kill()
        process.wait()


def _wait(port: int) -> None:
    ends_s = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < ends_s
            time.sleep(0.02)
        else:
            return

"""On PYTHONPATH, this lets a process reach loopback and nothing else."""

import socket
from typing import Any

_connect, _getaddrinfo = socket.socket.connect, socket.getaddrinfo
_LOCAL = {"127.0.0.1", "::1", "localhost", "0.0.0.0", None}


def _guarded_connect(self: socket.socket, address: Any) -> None:
    if self.family in {socket.AF_INET, socket.AF_INET6} and address[0] not in _LOCAL:
        raise AssertionError(f"tried to reach {address}")
    _connect(self, address)


def _guarded_getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
    if host not in _LOCAL:
        raise AssertionError(f"tried to resolve {host}")
    return _getaddrinfo(host, *arguments, **options)


socket.socket.connect = _guarded_connect  # type: ignore[assignment, method-assign]
socket.getaddrinfo = _guarded_getaddrinfo

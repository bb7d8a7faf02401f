"""The HTTP server's life: it listens, drains on the first signal, and ends at once on a second."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import uvicorn
from typing_extensions import override

from errors import ConfigurationError, describe_error

logger = logging.getLogger(__name__)

# What was sent before the signal may still stand in the kernel's queues: a server that closes at
# once resets it. So it listens for so long at least, and whatever came is read meanwhile.
_LAST_ARRIVALS_S = 0.5
# In each pass the event loop accepts one connection (uvloop) or all (asyncio), and reads from every
# socket on which something has come; a request is read some passes after it has been accepted.
_PASSES_TO_READ = 10


_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # an address, or its kind
_WHY = {
    errno.EADDRINUSE: "another process listens on it: end that one, or choose another port",
    errno.EACCES: "this user may not take it; ports from 1024 on are for everybody",
}


def bind(host: str, port: int) -> list[socket.socket]:
    """Take the port without listening on it: connections are refused until the server does.

    Args:
        host: an address, or a name of which each address that this machine has is taken; `::` is
            every one of IPv6 and of IPv4.
        port: 0 is any that is free.

    Raises:
        ConfigurationError: it cannot be taken; the message names HOST or PORT.
    """
    of = None if host == "::" else host  # None is every address of both kinds
    try:
        found = socket.getaddrinfo(of, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"HOST={host!r}: no such address or name") from error
    bound = []
    with ExitStack() as held:
        # /etc/hosts may give a name one address twice.
        for family, kind, protocol, _, (address, _, *scope) in dict.fromkeys(found):
            try:
                one = held.enter_context(socket.socket(family, kind, protocol))
                # Connections of the process before this one may linger for a minute.
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                one.bind((address, port, *scope))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise _cannot_take(port, error) from error
            else:
                bound.append(one)
                port = one.getsockname()[1]  # one for all addresses, where any will do
        if not bound:
            raise ConfigurationError(f"HOST={host!r}: this machine has no such address")
        held.pop_all()
    return bound


def _cannot_take(port: int, error: OSError) -> ConfigurationError:
    reason = _WHY.get(error.errno or 0) or describe_error(error)
    return ConfigurationError(f"PORT={port}: {reason}")


def check_certificate(certificate: Path | None, key: Path | None) -> None:
    """Look whether TLS can be spoken with a certificate and its key.

    Raises:
        ConfigurationError: it cannot; the message names SSL_CERTFILE or SSL_KEYFILE.
    """
    if certificate is None:
        if key:
            raise ConfigurationError(f"SSL_KEYFILE={key} counts with SSL_CERTFILE only")
        return
    for variable, path in (("SSL_CERTFILE", certificate), ("SSL_KEYFILE", key)):
        try:
            if path:
                path.read_bytes()
        except OSError as error:
            reason = describe_error(error)
            raise ConfigurationError(f"{variable}={path} cannot be read: {reason}") from error
    try:
        # With a password it asks nobody for one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"SSL_CERTFILE={certificate}, SSL_KEYFILE={key or ''}: no certificate in PEM with its "
            f"own unencrypted key ({error.reason})"
        ) from error


class StoppedError(SystemExit):
    """A signal came while the service was loading."""


class Server(uvicorn.Server):
    """uvicorn, but for the signals.

    Args:
        config: of uvicorn.
        on_drain: called when the first signal comes, while the server still listens.
        drain_delay_s: how long it still listens, half a second at least.

    Attributes:
        stopped: whether a signal came.
    """

    def __init__(
        self, config: uvicorn.Config, on_drain: Callable[[], None], drain_delay_s: float
    ) -> None:
        super().__init__(config)
        self._on_drain = on_drain
        self._drain_delay_s = drain_delay_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self.stopped = False

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            await super().startup(sockets)
            for one in sockets or ():
                one.getsockname()  # uvloop closes one that may not listen, and says nothing
        except OSError:
            fault = _cannot_take(self.config.port, OSError(errno.EADDRINUSE, ""))
            logger.error("Cannot start: %s", fault)  # noqa: TRY400 - two took it, one may listen
            self.started = False
            await self.lifespan.shutdown()
            sys.exit(1)
        if self.stopped:  # some libraries swallow whatever is raised in them
            self.should_exit = True

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Read what has come, however slow the machine is; then stop listening, and answer it."""
        for _ in range(self.config.backlog + _PASSES_TO_READ):
            await asyncio.sleep(0)
        await super().shutdown(sockets)

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Hear a signal to stop: SIGTERM, or SIGINT from a keyboard.

        Raises:
            StoppedError: nothing is served yet; whatever is being loaded ends here.
        """
        if self.stopped:
            os._exit(128 + sig)
        self.stopped = True
        if not (self._loop and self.started):
            raise StoppedError
        self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        logger.info("Stopping: requests in flight are answered first")
        self._on_drain()
        delay_s = max(self._drain_delay_s, _LAST_ARRIVALS_S)
        asyncio.get_running_loop().call_later(delay_s, self._stop_listening)

    def _stop_listening(self) -> None:
        self.should_exit = True

"""The HTTP server: listens, drains on the first signal, and exits at once on the second."""

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

# Requests that were sent before the signal may still be in the kernel's queues, and closing at once
# would reset them. So the server listens for at least this many seconds.
_LAST_ARRIVALS_S = 0.5
# In each pass the event loop accepts one connection (uvloop) or all (asyncio), and reads from all
# ready sockets; a request is read some passes after its connection is accepted.
_PASSES_TO_READ = 10


_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # the machine lacks it, or its family
_WHY = {
    errno.EADDRINUSE: "another process listens on it: end that one, or choose another port",
    errno.EACCES: "this user may not take it; ports from 1024 on are for everybody",
}


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind the port without listening: connections are refused until the server listens.

    Args:
        host: an address, or a name; a name binds all its addresses on this machine. `::` binds all
            addresses of IPv6 and IPv4.
        port: the port; 0 for any free port.

    Raises:
        ConfigurationError: the port cannot be bound; the message names HOST or PORT.
    """
    of = None if host == "::" else host  # None means all addresses
    try:
        found = socket.getaddrinfo(of, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"HOST={host!r}: no such address or name") from error
    bound = []
    with ExitStack() as held:
        # /etc/hosts may list an address of a name twice.
        for family, kind, protocol, _, (address, _, *scope) in dict.fromkeys(found):
            try:
                listener = held.enter_context(socket.socket(family, kind, protocol))
                # Connections of an earlier process may linger for a minute.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.bind((address, port, *scope))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise _cannot_take(port, error) from error
            else:
                bound.append(listener)
                port = listener.getsockname()[1]  # port 0: all addresses get the same port
        if not bound:
            raise ConfigurationError(f"HOST={host!r}: this machine has no such address")
        held.pop_all()
    return bound


def _cannot_take(port: int, error: OSError) -> ConfigurationError:
    reason = _WHY.get(error.errno or 0) or describe_error(error)
    return ConfigurationError(f"PORT={port}: {reason}")


def check_certificate(certificate: Path | None, key: Path | None) -> None:
    """Check that a certificate and its key can be used for TLS.

    Raises:
        ConfigurationError: they cannot be used; the message names the variable.
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
        # An empty password, so that OpenSSL does not prompt for one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"SSL_CERTFILE={certificate}, SSL_KEYFILE={key or ''}: no certificate in PEM with its "
            f"own unencrypted key ({error.reason})"
        ) from error


class StoppedError(SystemExit):
    """Ends the process, as a signal stopped the service while the model was loading."""


class Server(uvicorn.Server):
    """uvicorn's server; it drains on the first signal, and exits at once on the second.

    Args:
        config: uvicorn's configuration.
        on_drain: called at the first signal, while the server still listens.
        drain_delay_s: seconds to keep listening after the first signal; at least half a second.

    Attributes:
        stopped: whether a signal to stop has arrived.
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
            for listener in sockets or ():
                listener.getsockname()  # uvloop closes a socket silently if listening fails
        except OSError:
            fault = _cannot_take(self.config.port, OSError(errno.EADDRINUSE, ""))
            logger.error("Cannot start: %s", fault)  # noqa: TRY400 - another process listens
            self.started = False
            await self.lifespan.shutdown()
            sys.exit(1)
        if self.stopped:  # some libraries swallow `StoppedError`
            self.should_exit = True

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Read requests that were sent before the signal, stop listening, and answer them."""
        for _ in range(self.config.backlog + _PASSES_TO_READ):
            await asyncio.sleep(0)
        await super().shutdown(sockets)

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal to stop: SIGTERM or SIGINT.

        Raises:
            StoppedError: the service is still loading; the loading ends here.
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

"""The HTTP server's life: it listens, drains on the first signal, and ends at once on a second."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from typing_extensions import override

logger = logging.getLogger(__name__)

# What was sent before the signal may still stand in the kernel's queues: a server that closes at
# once resets it. So it listens for so long at least, and whatever came is read meanwhile.
_LAST_ARRIVALS_S = 0.5
# In each pass the event loop accepts one connection (uvloop) or all (asyncio), and reads from every
# socket on which something has come; a request is read some passes after it has been accepted.
_PASSES_TO_READ = 10


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
        await super().startup(sockets)
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

"""Reports a failed start by one sentence, where Starlette reports a traceback."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from starlette.datastructures import State
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from errors import StartupError
from web.server import StoppedError

logger = logging.getLogger(__name__)


@contextmanager
def startup_error(state: State) -> Iterator[None]:
    """Store the message of a failed start on the application's state as `startup_error`."""
    state.startup_error = None
    try:
        yield
    except StartupError as error:
        state.startup_error = str(error)
        raise
    except (StoppedError, asyncio.CancelledError):
        logger.info("Stopped before it was ready")
        state.startup_error = ""
        raise


class StartupErrorMiddleware:
    """Sends that message to the server."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass requests on; replace the message of a failed lifespan."""
        if scope["type"] == "lifespan":
            send = partial(_send_in_a_sentence, scope["app"].state, send)
        await self._app(scope, receive, send)


async def _send_in_a_sentence(state: State, send: Send, message: Message) -> None:
    if message["type"] == "lifespan.startup.failed" and state.startup_error is not None:
        message = {**message, "message": state.startup_error}
    await send(message)

"""Reports a failed startup in one sentence, where Starlette would report a traceback."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import State
from starlette.types import Message, Send

from errors import StartupError
from web.server import StoppedError

logger = logging.getLogger(__name__)


@contextmanager
def startup_error(state: State) -> Iterator[None]:
    """Store the message of a failed startup as `state.startup_error`."""
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


def report_startup_error(state: State, send: Send) -> Send:
    """Return a `send` that replaces the traceback of a failed startup by `startup_error`."""

    async def send_in_a_sentence(message: Message) -> None:
        if message["type"] == "lifespan.startup.failed" and state.startup_error is not None:
            message = {**message, "message": state.startup_error}
        await send(message)

    return send_in_a_sentence

"""The service over HTTP: the application, its lifespan, and the launcher.

    bytes -> intake -> parse -> Vectorizer -> [Embedded] -> serialise -> bytes

`python app.py` is the launcher; `uvicorn app:app` starts the same application.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, NoReturn, TypeAlias

import uvicorn
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send
from typing_extensions import override

from config import VERSION, Settings, read, without_effect
from errors import ConfigurationError, StartupError
from machine import allow_many_connections
from vectorizer import Vectorizer, load_vectorizer
from web.endpoints import ENDPOINTS
from web.endpoints.base import Endpoint
from web.errors import ErrorResponder
from web.logs import configure
from web.openapi import with_endpoints
from web.protocol import Protocol
from web.routes import add_routes
from web.server import Server, StoppedError
from web.service import Service, serving

logger = logging.getLogger(__name__)

MakeVectorizer: TypeAlias = Callable[[Settings], Awaitable[Vectorizer]]

# Weaviate's Go client keeps idle connections for 90 s; a server that closes them earlier shows up
# there as "connection reset by peer".
KEEP_ALIVE_S = 120


def create_app(
    settings: Settings | None = None,
    make_vectorizer: MakeVectorizer = load_vectorizer,
    endpoints: Sequence[type[Endpoint[Any]]] = ENDPOINTS,
) -> Application:
    """Build the application; the model is loaded when its lifespan starts.

    Args:
        settings: by default, those of the environment at start.
        make_vectorizer: loads the model; tests put their own in its place.
        endpoints: the interfaces; tests add their own.
    """
    app = Application(
        endpoints,
        title="multi2vec-clip-service",
        version=VERSION,
        summary="Vectors of texts and images for Weaviate's modules",
        docs_url=None,  # FastAPI's pages take their scripts from the internet; see `web/docs.py`
        redoc_url=None,
        lifespan=partial(_lifespan, settings=settings, make_vectorizer=make_vectorizer),
    )
    add_routes(app)
    return app


class Application(FastAPI):
    """A FastAPI with the interfaces in front of it, and whose failed start ends in a sentence.

    Attributes:
        service: what serves, once the model is loaded.
        last_words: the sentence that a failed start ends in; None before one.
    """

    service: Service

    def __init__(self, endpoints: Sequence[type[Endpoint[Any]]], **about: Any) -> None:
        self.endpoints = endpoints
        self.errors = ErrorResponder(one.errors for one in endpoints)
        self.last_words: str | None = None
        super().__init__(exception_handlers=self.errors.handlers, **about)

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self.service.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, partial(self._send_in_a_sentence, send))

    async def answer_others(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what no interface does."""
        await super().__call__(scope, receive, send)

    @override
    def openapi(self) -> dict[str, Any]:
        if not self.openapi_schema:
            self.openapi_schema = with_endpoints(super().openapi(), self.endpoints)
        return self.openapi_schema

    async def _send_in_a_sentence(self, send: Send, message: Message) -> None:
        # Starlette reports a failed start as a traceback.
        if message["type"] == "lifespan.startup.failed" and self.last_words is not None:
            message = {**message, "message": self.last_words}
        await send(message)


@asynccontextmanager
async def _lifespan(
    app: Application, settings: Settings | None, make_vectorizer: MakeVectorizer
) -> AsyncIterator[None]:
    async with AsyncExitStack() as held:
        with _last_words(app):
            settings = settings or read(Settings)
            vectorizer = await held.enter_async_context(aclosing(await make_vectorizer(settings)))
            app.service = await held.enter_async_context(
                serving(vectorizer, settings, app.endpoints, app.errors, app.answer_others)
            )
        routes = ", ".join(f"POST {one.paths[0]}" for one in app.endpoints)
        page = ", and for browsers a page at /" if settings.debug_page else ""
        logger.info(
            "Loaded. On port %d: %s, GET /meta, /metrics, /docs%s", settings.port, routes, page
        )
        yield


@contextmanager
def _last_words(app: Application) -> Iterator[None]:
    try:
        yield
    except StartupError as error:
        app.last_words = str(error)
        raise
    except (StoppedError, asyncio.CancelledError):
        logger.info("Stopped before it was ready")
        app.last_words = ""
        raise


app = create_app()


def main() -> None:
    """Serve until a signal comes; exit with 1 and one sentence where the start fails."""
    try:
        settings = read(Settings)
    except ConfigurationError as error:
        sys.exit(f"Cannot start: {error}")
    serve(settings)


def serve(settings: Settings, make_vectorizer: MakeVectorizer = load_vectorizer) -> NoReturn:
    """Serve until a signal comes, and end the process."""
    configure(settings)
    if unused := without_effect():
        logger.warning("No effect here, and none is needed (see README): %s", ", ".join(unused))
    allow_many_connections()
    app = create_app(settings, make_vectorizer)
    server = Server(
        uvicorn.Config(
            app,
            # uvloop takes "::" for IPv6 alone; "" is every address of both kinds.
            host="" if settings.host == "::" else settings.host,
            port=settings.port,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=math.ceil(settings.request_timeout_s),
            http=Protocol,
            ws="none",
            log_config=None,
            access_log=False,
        ),
        on_drain=partial(_drain, app),
        drain_delay_s=settings.drain_delay_s,
    )
    with suppress(SystemExit):  # of a signal before it was ready, or of a port that is taken
        server.run()
    sys.exit(0 if server.started or server.stopped else 1)


def _drain(app: Application) -> None:
    app.service.vectorizer.health.draining = True


if __name__ == "__main__":
    main()

"""The service over HTTP: the application, its lifespan, and the launcher.

    bytes -> middleware -> route: read -> parse -> Vectorizer -> results -> serialize -> bytes

`python app.py` is the launcher (`cli` reads its command line); `uvicorn app:app` starts the same
application.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, NoReturn

import uvicorn
from fastapi import FastAPI

import cli
from config import VERSION, Settings, doubts, read
from errors import ConfigurationError
from machine import allow_many_connections
from on_demand import MakeVectorizer
from registry import load_models
from vectorizer import load_vectorizer
from web.auth import TokenAuth
from web.endpoints import ENDPOINTS
from web.endpoints.base import Endpoint
from web.errors import ErrorResponder
from web.handler import interface_routes
from web.logs import configure
from web.middleware import RequestMiddleware
from web.models import choose_defaults
from web.openapi import describe
from web.protocol import Protocol
from web.routes import add_routes
from web.server import Server, bind, check_certificate
from web.service import Service, make_tracing, serving
from web.startup import startup_error

logger = logging.getLogger(__name__)

# Weaviate's Go client keeps idle connections for 90 s; a server that closes them earlier shows up
# there as "connection reset by peer".
KEEP_ALIVE_S = 120


def create_app(
    settings: Settings | None = None,
    make_vectorizer: MakeVectorizer = load_vectorizer,
    endpoints: Sequence[type[Endpoint[Any]]] = ENDPOINTS,
) -> FastAPI:
    """Build the application; its lifespan loads the models and puts a `Service` on `app.state`.

    Args:
        settings: the settings; None reads them from the environment at startup.
        make_vectorizer: function that loads a model; tests pass their own.
        endpoints: the endpoints; tests add their own.
    """
    errors = ErrorResponder(endpoint.errors for endpoint in endpoints)
    app = FastAPI(
        title="multi2vec-clip-service",
        version=VERSION,
        summary="Vectors of texts and images, and scores of documents, for Weaviate's modules",
        openapi_url=None,  # it depends on the model that the path names; see `web/routes.py`
        docs_url=None,  # FastAPI's pages load scripts from the internet; see `web/docs.py`
        redoc_url=None,
        redirect_slashes=False,  # see `web/scope.py`
        # FastAPI would look for a provider in the environment with every request; `web/tracing.py`
        # makes the traces.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        routes=interface_routes(endpoints),
        exception_handlers=errors.handlers,
        lifespan=partial(
            _lifespan, settings=settings, make_vectorizer=make_vectorizer, endpoints=endpoints
        ),
    )
    add_routes(app)
    describe(app, endpoints)
    app.add_middleware(RequestMiddleware, endpoints=endpoints, errors=errors)
    return app


@asynccontextmanager
async def _lifespan(
    app: FastAPI,
    settings: Settings | None,
    make_vectorizer: MakeVectorizer,
    endpoints: Sequence[type[Endpoint[Any]]],
) -> AsyncIterator[None]:
    async with AsyncExitStack() as held:
        with startup_error(app.state):
            if settings is None:
                for doubt in doubts():
                    logger.warning("%s", doubt)
                settings = read(Settings)
            access = TokenAuth(settings)  # checked before the model loads
            tracing = make_tracing(settings)
            if tracing:
                held.push_async_callback(asyncio.to_thread, tracing.close)
            defaults = partial(choose_defaults, endpoints=endpoints, settings=settings)
            registry = await held.enter_async_context(
                load_models(settings, make_vectorizer, defaults)
            )
            service = await held.enter_async_context(
                serving(app.state, registry, settings, endpoints, access, tracing)
            )
        routes = ", ".join(f"POST {one.paths[0]}" for one in service.models.endpoints())
        page = ", and for browsers a page at /" if settings.debug_page else ""
        logger.info(
            "Loaded. On port %d: %s, GET /meta, /metrics, /docs%s", settings.port, routes, page
        )
        yield


app = create_app()


def main() -> None:
    """Serve until a signal stops the service; if startup fails, exit with 1 and one sentence."""
    if cli.wants_check():
        cli.check()
    try:
        settings = read(Settings)
    except ConfigurationError as error:
        sys.exit(f"Cannot start: {error}")
    serve(settings)


def serve(settings: Settings, make_vectorizer: MakeVectorizer = load_vectorizer) -> NoReturn:
    """Serve until a signal stops the service, and exit; the status is 1 if startup fails."""
    configure(settings)
    for doubt in doubts():
        logger.warning("%s", doubt)
    try:
        check_certificate(settings.ssl_certfile, settings.ssl_keyfile)
        sockets = bind(settings.host, settings.port)  # before the model, which takes minutes
    except ConfigurationError as error:
        logger.error("Cannot start: %s", error)  # noqa: TRY400
        sys.exit(1)
    settings = settings.model_copy(update={"port": sockets[0].getsockname()[1]})
    allow_many_connections()
    app = create_app(settings, make_vectorizer)
    server = Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=math.ceil(settings.request_timeout_s),
            http=Protocol,
            ws="none",
            log_config=None,
            access_log=False,
            forwarded_allow_ips=settings.forwarded_allow_ips,
            ssl_certfile=settings.ssl_certfile,
            ssl_keyfile=settings.ssl_keyfile,
        ),
        on_drain=partial(_drain, app),
        drain_delay_s=settings.drain_delay_s,
    )
    with suppress(SystemExit):  # a signal during startup, or a failed startup
        server.run(sockets)
    sys.exit(0 if server.started or server.stopped else 1)


def _drain(app: FastAPI) -> None:
    service: Service = app.state.service
    service.drain()


if __name__ == "__main__":
    main()

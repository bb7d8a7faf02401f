"""The service over HTTP: lifespan, routes, and the launcher.

    bytes -> intake -> parse -> Vectorizer -> Vectors -> serialise -> bytes

`python app.py` is the launcher; `uvicorn app:app` starts the same application.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from functools import partial
from typing import Any, NoReturn, TypeAlias

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.types import Message, Receive, Scope, Send

from config import VERSION, Settings, read
from errors import ConfigurationError, StartupError, UnauthorizedError, UnhealthyError
from inference.observers import Observers
from inference.record import Record
from inference.tasks import background
from machine import allow_many_connections
from meta import meta
from vectorizer import Vectorizer, load_vectorizer
from web.auth import Access
from web.body import Intake, while_connected
from web.endpoints.clip import VectorizeResponse, parse, request_body, serialise
from web.errors import HANDLERS, STATUS, answer, described_headers
from web.load_log import LoadLog
from web.logs import configure
from web.metrics import Metrics
from web.middleware import observed
from web.page import page_response
from web.protocol import Protocol
from web.server import Server, StoppedError
from web.wire import ErrorResponse

logger = logging.getLogger(__name__)

MakeVectorizer: TypeAlias = Callable[[Settings], Awaitable[Vectorizer]]

# Weaviate's Go client keeps idle connections for 90 s; a server that closes them earlier shows up
# there as "connection reset by peer".
KEEP_ALIVE_S = 120


def create_app(
    settings: Settings | None = None, make_vectorizer: MakeVectorizer = load_vectorizer
) -> FastAPI:
    """Build the application; the model is loaded when its lifespan starts.

    Args:
        settings: by default, those of the environment at start.
        make_vectorizer: loads the model; tests put their own in its place.
    """
    app = _Application(
        title="multi2vec-clip-service",
        version=VERSION,
        summary="Vectors of texts and images for Weaviate's multi2vec-clip module",
        lifespan=partial(_lifespan, settings=settings, make_vectorizer=make_vectorizer),
        exception_handlers=HANDLERS,
    )
    _add_routes(app)
    return app


class _Application(FastAPI):
    """A FastAPI that keeps a record of every request, and whose failed start ends in a sentence."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            last = self.state.vectorizer.health.draining
            hear = self.state.request_observers
            await observed(self._enter, scope, receive, send, hear, last)
        else:
            await super().__call__(scope, receive, partial(self._send_in_a_sentence, send))

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self.state.access.check(scope)
        except UnauthorizedError as error:
            await answer(Request(scope), error)(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def _send_in_a_sentence(self, send: Send, message: Message) -> None:
        # Starlette reports a failed start as a traceback.
        error = getattr(self.state, "startup_error", None)
        if message["type"] == "lifespan.startup.failed" and error is not None:
            message = {**message, "message": str(error)}
        await send(message)


@asynccontextmanager
async def _lifespan(
    app: FastAPI, settings: Settings | None, make_vectorizer: MakeVectorizer
) -> AsyncIterator[None]:
    try:
        settings = settings or read(Settings)
        vectorizer = await make_vectorizer(settings)
    except StartupError as error:
        app.state.startup_error = error
        raise
    except (StoppedError, asyncio.CancelledError):
        logger.info("Stopped before it was ready")
        app.state.startup_error = ""
        raise
    app.state.vectorizer = vectorizer
    app.state.intake = Intake(settings)
    app.state.access = Access(settings.authentication_allowed_tokens)
    app.state.page = page_response() if settings.debug_page else None
    async with aclosing(vectorizer), _observing(app, vectorizer):
        page = ", and for browsers a page at /" if settings.debug_page else ""
        logger.info(
            "Ready on port %d: POST /vectorize, GET /meta, /metrics, /docs%s", settings.port, page
        )
        yield


@asynccontextmanager
async def _observing(app: FastAPI, vectorizer: Vectorizer) -> AsyncIterator[None]:
    """Let the metrics and the log hear of every batch and every request."""
    requests: Observers[[Record]] = Observers()
    metrics = Metrics(
        vectorizer,
        VERSION,
        queue_bytes=lambda: app.state.intake.budget.used,
        observer_failures=lambda: requests.failures + vectorizer.observer_failures,
    )
    load_log = LoadLog(lambda: vectorizer.queue_items)
    for observer in (metrics, load_log):
        vectorizer.observe_batches(observer.observe_batch)
        requests.add(observer.observe_request)
    app.state.metrics, app.state.request_observers = metrics, requests
    task = background(load_log.run(), name="load-log")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _add_routes(app: FastAPI) -> None:
    probe: dict[str, Any] = {
        "status_code": 204,
        "response_class": Response,
        "responses": _errors(503),
        "tags": ["health"],
    }
    # Routes are tried in this order, and most requests are the first.
    app.post(
        "/vectorize",
        summary="Embed texts and images",
        tags=["model"],
        response_model=VectorizeResponse,
        responses=_errors(*STATUS.values()),
        openapi_extra={"requestBody": request_body()},
    )(_vectorize)
    app.get("/.well-known/live", summary="Is the process alive?", **probe)(_live)
    app.get("/.well-known/ready", summary="Can it take requests?", **probe)(_ready)
    app.get("/meta", summary="What model is this?", tags=["model"], responses=_errors(401))(_meta)
    app.get(
        "/metrics",
        summary="What is it doing? For Prometheus",
        tags=["health"],
        response_class=Response,
        responses=_errors(401),
    )(_metrics)
    app.get(
        "/",
        summary="A page to try the model on, for browsers",
        tags=["model"],
        responses=_errors(401),
    )(_root)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": ErrorResponse, "headers": described_headers(status)}
        for status in sorted(set(statuses))
    }


def _routes(app: FastAPI) -> dict[str, str]:
    """Return what can be asked for, and what it answers."""
    own = [route for route in app.routes if isinstance(route, APIRoute)]
    described = {
        f"{method} {route.path}": str(route.summary)
        for route in own
        for method in route.methods or ()
    }
    return described | {f"GET {app.docs_url}": "The description of the interface"}


async def _live(request: Request) -> Response:
    return _probe(request, request.app.state.vectorizer.health.dead)


async def _ready(request: Request) -> Response:
    vectorizer: Vectorizer = request.app.state.vectorizer
    vectorizer.try_again_if_failing()
    return _probe(request, vectorizer.health.unready)


def _probe(request: Request, fault: str | None) -> Response:
    return answer(request, UnhealthyError(fault)) if fault else Response(status_code=204)


async def _meta(request: Request) -> dict[str, object]:
    vectorizer: Vectorizer = request.app.state.vectorizer
    return meta(vectorizer.info, vectorizer.cache_stats)


async def _metrics(request: Request) -> Response:
    metrics: Metrics = request.app.state.metrics
    content, content_type = metrics.exposition(request.headers.get("accept", ""))
    return Response(content, headers={"Content-Type": content_type})


async def _root(request: Request) -> Response:
    page: Response | None = request.app.state.page
    if page and "text/html" in request.headers.get("accept", ""):
        return page
    app: FastAPI = request.app
    content = {"name": app.title, "version": app.version, "routes": _routes(app)}
    return JSONResponse(content, headers={"Vary": "Accept"})


async def _vectorize(request: Request) -> Response:
    record: Record = request.state.record
    timings = record.timings
    vectorizer: Vectorizer = request.app.state.vectorizer
    async with AsyncExitStack() as taken_in:
        with timings.measure("read"):
            # The body is read without a look at its content type: `curl -d` sends JSON as a form.
            body = await taken_in.enter_async_context(request.app.state.intake.body_of(request))
            texts, images = parse(body)
            body.clear()  # the memory is wanted for the images
        record.texts, record.images = len(texts), len(images)
        work = vectorizer.vectorize(texts, images, timings)
        vectors = await while_connected(request, work)
    with timings.measure("serialise"):
        content = serialise(vectors.texts, vectors.images)
    return Response(content, media_type="application/json")


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
            log_config=None,
            access_log=False,
        ),
        on_drain=partial(_drain, app),
        drain_delay_s=settings.drain_delay_s,
    )
    with suppress(SystemExit):  # of a signal before it was ready, or of a port that is taken
        server.run()
    sys.exit(0 if server.started or server.stopped else 1)


def _drain(app: FastAPI) -> None:
    app.state.vectorizer.health.draining = True


if __name__ == "__main__":
    main()

"""The service over HTTP: lifespan, routes, wire models, and the one table from error to status.

    bytes -> VectorizeRequest -> Vectorizer -> Vectors -> bytes

`python app.py` is the launcher; `uvicorn app:app` starts the same application.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

import orjson
import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from config import VERSION, Settings, read
from inference.errors import (
    ConfigurationError,
    InvalidInputError,
    RequestTooLargeError,
    ServiceError,
    StartupError,
)
from meta import meta
from vectorizer import Vectorizer, Vectors, load_vectorizer

logger = logging.getLogger(__name__)

MakeVectorizer: TypeAlias = Callable[[Settings], Awaitable[Vectorizer]]

# An error answers with the status of its nearest ancestor here; what is not here is a bug, and 500.
STATUS: dict[type[ServiceError], int] = {
    InvalidInputError: 422,
    RequestTooLargeError: 413,
    ServiceError: 500,
}

# Weaviate's Go client keeps idle connections for 90 s; a server that closes them earlier shows up
# there as "connection reset by peer".
KEEP_ALIVE_S = 120

EXAMPLE_IMAGE = (  # a red circle
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgAQMAAABJtOi3AAAABlBMVEX////cFBTlJRwCAAAARElEQVR42n3M"
    "sQ2AMADEwOOFxBgwCpvBaBklY1CghCKiQ7hw4cL8s1Ssl9hmsQe9y8QZSIzqU42SseodRxOliXq/+z8eGIwO"
    "/AhZZ7UAAAAASUVORK5CYII="
)


class VectorizeRequest(BaseModel):
    """What `POST /vectorize` takes; Weaviate leaves an empty list out altogether."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={
            "examples": [
                {"texts": ["a red circle", "a big blue square"], "images": [EXAMPLE_IMAGE]}
            ]
        },
    )

    texts: list[str] | None = Field(default=None, description="texts to embed")
    images: list[str] | None = Field(
        default=None,
        description="images to embed: the base64 of each file, with or without a "
        "`data:image/...;base64,` prefix",
    )


class VectorizeResponse(BaseModel):
    """What `POST /vectorize` answers: both lists, in the order of the request."""

    textVectors: list[list[float]]  # noqa: N815 - the wire format of Weaviate
    imageVectors: list[list[float]]  # noqa: N815


class ErrorResponse(BaseModel):
    """What every answer above 399 holds: Weaviate shows its user this string and nothing else."""

    error: str = Field(examples=["images[1]: not an image"])


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
        exception_handlers={
            ServiceError: _answer_service_error,
            HTTPException: _answer_http_error,
            Exception: _answer_bug,
        },
    )
    _add_routes(app)
    return app


class _Application(FastAPI):
    """A FastAPI whose failed start ends in one sentence, where Starlette reports a traceback."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_a_sentence(message: Message) -> None:
            error = getattr(self.state, "startup_error", None)
            if message["type"] == "lifespan.startup.failed" and error:
                message = {**message, "message": str(error)}
            await send(message)

        is_lifespan = scope["type"] == "lifespan"
        await super().__call__(scope, receive, send_in_a_sentence if is_lifespan else send)


@asynccontextmanager
async def _lifespan(
    app: FastAPI, settings: Settings | None, make_vectorizer: MakeVectorizer
) -> AsyncIterator[None]:
    try:
        settings = settings or read(Settings)
        app.state.vectorizer = await make_vectorizer(settings)
    except StartupError as error:
        app.state.startup_error = error
        raise
    logger.info("Ready: POST /vectorize, GET /meta, GET /docs on port %d", settings.port)
    yield
    await app.state.vectorizer.aclose()


def _add_routes(app: FastAPI) -> None:
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorResponse} for status in sorted(set(STATUS.values()))
    }
    probe: dict[str, Any] = {"status_code": 204, "response_class": Response, "tags": ["health"]}
    app.get("/.well-known/live", summary="Is the process alive?", **probe)(_health)
    app.get("/.well-known/ready", summary="Can it take requests?", **probe)(_health)
    app.get("/meta", summary="What model is this?", tags=["model"])(_meta)
    app.post(
        "/vectorize",
        summary="Embed texts and images",
        tags=["model"],
        response_model=VectorizeResponse,
        responses=errors,
        openapi_extra={"requestBody": _request_body()},
    )(_vectorize)


def _request_body() -> dict[str, Any]:
    schema = VectorizeRequest.model_json_schema()
    return {"required": True, "content": {"application/json": {"schema": schema}}}


async def _health() -> Response:
    return Response(status_code=204)


async def _meta(request: Request) -> dict[str, object]:
    vectorizer: Vectorizer = request.app.state.vectorizer
    return meta(vectorizer.info, vectorizer.cache_stats)


async def _vectorize(request: Request) -> Response:
    # The body is read without a look at its content type: `curl -d` sends JSON as a form.
    wanted = _parse(await request.body())
    vectorizer: Vectorizer = request.app.state.vectorizer
    vectors = await vectorizer.vectorize(wanted.texts or [], wanted.images or [])
    return Response(_serialise(vectors), media_type="application/json")


def _parse(body: bytes) -> VectorizeRequest:
    try:
        return VectorizeRequest.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = _path(fault["loc"])
        raise InvalidInputError(f"{where}: {fault['msg']}") from error


def _path(loc: tuple[int | str, ...]) -> str:
    """Write a place in the body as its reader would: `images[1]`."""
    name, *indices = loc or ("the request body",)
    return str(name) + "".join(f"[{index}]" for index in indices if isinstance(index, int))


def _serialise(vectors: Vectors) -> bytes:
    # Each number as the shortest decimal that parses back to the same float32.
    return orjson.dumps(
        {"textVectors": vectors.texts, "imageVectors": vectors.images},
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def _error_response(status: int, sentence: str, **headers: str) -> Response:
    content = orjson.dumps({"error": sentence})
    return Response(content, status, headers=headers, media_type="application/json")


async def _answer_service_error(_request: Request, error: Exception) -> Response:
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    if status >= 500:
        logger.warning("Failed to answer a request: %s", error)
    return _error_response(status, str(error))


async def _answer_http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise TypeError("This is a bug.")
    sentence = f"{request.method} {request.url.path}: {error.detail}"
    return _error_response(error.status_code, sentence, **(error.headers or {}))


async def _answer_bug(_request: Request, _error: Exception) -> Response:
    return _error_response(500, "internal error; the service's log has the details")


app = create_app()


def main() -> None:
    """Serve until a signal comes; exit with 1 and one sentence where the start fails."""
    try:
        settings = read(Settings)
    except ConfigurationError as error:
        sys.exit(f"Cannot start: {error}")
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)-7s %(message)s"
    )
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            host=settings.host,
            port=settings.port,
            timeout_keep_alive=KEEP_ALIVE_S,
            log_config=None,
            access_log=False,
        )
    )
    try:
        server.run()
    except SystemExit:
        sys.exit(1)
    sys.exit(0 if server.started else 1)


if __name__ == "__main__":
    main()

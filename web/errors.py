"""From an error to its answer: the one table of status codes, and the handlers that use it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from errors import (
    ClientGoneError,
    DeadlineExceededError,
    InvalidInputError,
    QueueFullError,
    Reason,
    RequestTooLargeError,
    ServiceError,
    SlowRequestError,
    UnauthorizedError,
    UnhealthyError,
)
from web.auth import CHALLENGES
from web.wire import error_response

Handler: TypeAlias = Callable[[Request, Any], Coroutine[Any, Any, Response]]

# An error answers with the status of its nearest ancestor here; what is not here is a bug, and 500.
STATUS: dict[type[ServiceError], int] = {
    InvalidInputError: 422,
    RequestTooLargeError: 413,
    UnauthorizedError: 401,
    SlowRequestError: 408,
    QueueFullError: 429,
    ClientGoneError: 499,  # as nginx counts them; nobody reads it
    UnhealthyError: 503,
    DeadlineExceededError: 504,
    ServiceError: 500,
}


def answer(request: Request, error: ServiceError) -> Response:
    """Answer an error of our own."""
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    response = _refuse(request, status, str(error), error.reason)
    for name, value in _headers_of(error):
        response.headers.append(name, value)
    return response


def described_headers(status: int) -> dict[str, Any]:
    """Describe for OpenAPI the headers that an answer above 399 brings."""
    own = {401: "WWW-Authenticate", 429: "Retry-After"}.get(status)
    return {
        name: {"required": True, "schema": {"type": "string"}}
        for name in ("X-Request-ID", own)
        if name
    }


def _headers_of(error: ServiceError) -> list[tuple[str, str]]:
    if isinstance(error, QueueFullError):
        return [("Retry-After", str(error.retry_after_s))]
    if isinstance(error, UnauthorizedError):
        return [("WWW-Authenticate", challenge) for challenge in CHALLENGES]
    return []


def _refuse(
    request: Request, status: int, sentence: str, reason: Reason, **headers: str
) -> Response:
    record = request.state.record
    record.refused, record.sentence = reason, sentence
    return error_response(status, sentence, **headers)


async def _answer_service_error(request: Request, error: ServiceError) -> Response:
    return answer(request, error)


async def _answer_http_error(request: Request, error: HTTPException) -> Response:
    sentence = f"{request.method} {request.url.path}: {error.detail}"
    return _refuse(request, error.status_code, sentence, "route", **(error.headers or {}))


async def _answer_bug(request: Request, _error: Exception) -> Response:
    # The exception itself goes to the log, with its traceback, by way of the server.
    return _refuse(request, 500, "internal error; the service's log has the details", "bug")


HANDLERS: dict[int | type[Exception], Handler] = {
    ServiceError: _answer_service_error,
    HTTPException: _answer_http_error,
    Exception: _answer_bug,
}

"""Turns errors into responses; `STATUS` is the only table of status codes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from errors import (
    ClientGoneError,
    ContentEncodingError,
    DeadlineExceededError,
    InvalidInputError,
    NotLoadedError,
    QueueFullError,
    RequestTooLargeError,
    ServiceError,
    SlowRequestError,
    TryLaterError,
    UnauthorizedError,
    UnhealthyError,
    UnknownModelError,
)
from web.auth import CHALLENGES
from web.endpoints.error_format import ErrorFormat, ErrorInfo, SentenceErrors
from web.record import RequestRecord
from web.scope import read_path

# An error has the status of its nearest base class here; any other error is a bug, with status 500.
STATUS: dict[type[ServiceError], int] = {
    InvalidInputError: 422,
    UnknownModelError: 404,
    RequestTooLargeError: 413,
    ContentEncodingError: 415,
    UnauthorizedError: 401,
    SlowRequestError: 408,
    QueueFullError: 429,
    ClientGoneError: 499,  # nginx's status for metrics; no client reads it
    UnhealthyError: 503,
    NotLoadedError: 503,
    DeadlineExceededError: 504,
    ServiceError: 500,
}
# The additional header of an error response, by status.
HEADERS = {401: "WWW-Authenticate", 415: "Accept-Encoding", 429: "Retry-After"}


class ErrorResponder:
    """Builds error responses, in the error format of the request's path."""

    def __init__(self, formats: Iterable[ErrorFormat]) -> None:
        known: tuple[ErrorFormat, ...] = (SentenceErrors(), *formats)
        by_prefix = {error_format.prefix: error_format for error_format in known}
        self._formats = [by_prefix[prefix] for prefix in sorted(by_prefix, key=len, reverse=True)]

    def respond(self, request: Request, error: Exception) -> Response:
        """Return the response to an error, and set the error in the request's record."""
        record: RequestRecord | None = request.scope.get("state", {}).get("record")
        record = record or RequestRecord(path=read_path(request.scope))
        error_info = _describe_error(request, error)
        record.refused, record.message = error_info.reason, error_info.message
        path = f"{record.endpoint or record.path}/"
        claimed = (
            error_format
            for error_format in self._formats
            # `/embed` claims `/embed/x`, and not `/embedding`.
            if path.startswith(f"{error_format.prefix.rstrip('/')}/")
        )
        # The path `*` (of OPTIONS) matches no prefix, and has the default format.
        shape = record.errors or next(claimed, self._formats[-1])
        status = shape.status(error_info.status)
        response = Response(shape.body(error_info), status, media_type="application/json")
        for name, value in _error_headers(error):
            response.headers.append(name, value)
        return response

    async def handle(self, request: Request, error: Exception) -> Response:
        """Return the response to an error; this is the exception handler for FastAPI."""
        return self.respond(request, error)

    @property
    def handlers(self) -> dict[int | type[Exception], Any]:
        """Return FastAPI's exception handlers, for all errors."""
        return dict.fromkeys((ServiceError, HTTPException, Exception), self.handle)


def _describe_error(request: Request, error: Exception) -> ErrorInfo:
    match error:
        case ServiceError():
            status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
            where = error.where if isinstance(error, InvalidInputError) else ""
            return ErrorInfo(status, str(error), error.reason, where)
        case HTTPException():
            message = f"{request.method} {request.url.path}: {error.detail}"
            return ErrorInfo(error.status_code, message, "route")
    return ErrorInfo(500, "internal error; the service's log has the details", "bug")


def _error_headers(error: Exception) -> list[tuple[str, str]]:
    match error:
        case TryLaterError():
            return [("Retry-After", str(error.retry_after_s))]
        case ContentEncodingError():
            return [("Accept-Encoding", "identity")]
        case UnauthorizedError():
            return [("WWW-Authenticate", challenge) for challenge in CHALLENGES]
        case HTTPException():
            return list((error.headers or {}).items())
    return []

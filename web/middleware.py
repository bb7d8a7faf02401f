"""What surrounds every HTTP request: its record, its token, its errors.

What the handlers and the errors note in the record ends here: in the headers `X-Request-ID`,
`Server-Timing`, `X-Truncated` and `X-No-Tokens`, in the log, and with those who count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import getrandbits
from typing import Any

from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from errors import ServiceError
from web.endpoints.base import Endpoint
from web.errors import ErrorResponder
from web.logs import log_request
from web.record import RequestRecord
from web.scope import header_of, read_path
from web.service import Service, service_of
from web.startup import tell_startup_error

# In one header: those that 2,048 items can have. Some clients refuse a header over 8 kB.
_MAX_RUNS = 1024
_SANE_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)  # that fits into a line of a log


class RequestMiddleware:
    """Surrounds every request: its record, its token, its errors, and HEAD.

    Errors are answered here, as Starlette answers bugs outside all middleware: so the record sees
    every answer, and what others have added sees it with all its headers. HEAD, by which load
    balancers and uptime checks ask, is answered as GET, without the body.

    Args:
        app: what answers.
        endpoints: the interfaces, whose answers are counted.
        errors: answers what is raised.
    """

    def __init__(
        self, app: ASGIApp, endpoints: Sequence[type[Endpoint[Any]]], errors: ErrorResponder
    ) -> None:
        self._app = app
        self._endpoints = {path: kind.paths[0] for kind in endpoints for path in kind.paths}
        self._errors = errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and note how it ended."""
        if scope["type"] != "http":
            await self._app(scope, receive, tell_startup_error(scope["app"].state, send))
            return
        path, method = read_path(scope), scope["method"]
        is_page = path == "/" and method in {"GET", "HEAD"}
        given_id = header_of(scope, b"x-request-id")
        record = RequestRecord(
            given_id if _SANE_ID.fullmatch(given_id) else f"{getrandbits(128):032x}",
            method,
            path,
            "" if is_page else self._endpoints.get(path, ""),
            scope["headers"],
        )
        service: Service | None = getattr(scope["app"].state, "service", None)
        scope.setdefault("state", {}).update(record=record, service=service)

        async def send_with_record(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.end(message["status"])
                headers = _headers_of(record)
                if service and service.vectorizer.health.draining:
                    headers.append((b"connection", b"close"))  # clients come back elsewhere
                message["headers"] = [*message.get("headers", ()), *headers]
            elif method == "HEAD" and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            service_of(scope).access.check(path, scope)
            inner = {**scope, "method": "GET"} if method == "HEAD" else scope
            await self._app(inner, receive, send_with_record)
        except Exception as error:
            if record.status:  # it is answered, in part
                raise
            await self._errors.respond(Request(scope), error)(scope, receive, send_with_record)
            if not isinstance(error, ServiceError | HTTPException):
                raise  # to the log, with its traceback, by way of the server
        finally:
            if record.status:  # without one the client was gone before there was an answer
                if service and record.endpoint:
                    service.on_complete(record)
                log_request(record)  # with the trace's id, which may be known by now


def _headers_of(record: RequestRecord) -> list[tuple[bytes, bytes]]:
    headers = [(b"x-request-id", record.request_id.encode())]
    if record.endpoint:
        headers.append((b"server-timing", server_timing(record).encode()))
    if record.truncated:
        headers.append((b"x-truncated", in_ranges(record.truncated).encode()))
    if record.no_tokens:
        headers.append((b"x-no-tokens", in_ranges(record.no_tokens).encode()))
    return headers


def server_timing(record: RequestRecord) -> str:
    """Write the header's value: milliseconds by stage, and in all."""
    stages = [*record.stages_s.items(), ("total", record.total_s)]
    return ", ".join(f"{stage};dur={1000 * seconds:.2f}" for stage, seconds in stages)


def in_ranges(places: Sequence[int]) -> str:
    """Write ascending places: `0,3-5`; of many that lie apart the first, and `...`."""
    runs: list[list[int]] = []
    for place in places:
        if runs and place == runs[-1][-1] + 1:
            runs[-1][1:] = [place]
        else:
            runs.append([place])
    shown = ["-".join(map(str, run)) for run in runs[:_MAX_RUNS]]
    return ",".join(shown + ["..."] * (len(runs) > _MAX_RUNS))

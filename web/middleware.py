"""What surrounds every HTTP request, from the outside in: its record, its errors, its token.

What the handlers and the errors note in the record ends here: in the headers `X-Request-ID`,
`Server-Timing` and `X-Truncated`, in the log, and with those who count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import getrandbits

from fastapi import Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from errors import ServiceError
from web.auth import Access
from web.errors import ErrorResponder
from web.logs import log_request
from web.record import Record

# In one header: those that 2,048 items can have. Some clients refuse a header over 8 kB.
_MAX_RUNS = 1024
_SANE_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
_ID_BITS = 128


def record_of(scope: Scope) -> Record:
    """Return the record of a request."""
    record: Record = scope["state"]["record"]
    return record


class RecordMiddleware:
    """Keeps a record of every request: it sees every answer, also that to a bug.

    Args:
        app: what answers.
        endpoints: of each path that an interface is asked on, the one by which it is known.
        on_complete: is told of each answer of an interface; must not raise, or the connection is
            closed.
        is_draining: tells whether clients shall come back on another connection.
    """

    def __init__(
        self,
        app: ASGIApp,
        endpoints: Mapping[str, str],
        on_complete: Callable[[Record], None],
        is_draining: Callable[[], bool],
    ) -> None:
        self._app = app
        self._endpoints = endpoints
        self._on_complete = on_complete
        self._is_draining = is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and note how it ended."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        is_page = path == "/" and scope["method"] in {"GET", "HEAD"}
        endpoint = "" if is_page else self._endpoints.get(path, "")
        record = Record(_request_id(scope), scope["method"], path, endpoint)
        scope.setdefault("state", {})["record"] = record
        try:
            await self._app(scope, receive, partial(self._send, record, send))
        finally:
            if record.status:  # without one the client was gone before there was an answer
                log_request(record)
                if record.endpoint:
                    self._on_complete(record)

    async def _send(self, record: Record, send: Send, message: Message) -> None:
        if message["type"] == "http.response.start":
            record.end(message["status"])
            message["headers"] = [*message.get("headers", []), *self._headers(record)]
        await send(message)

    def _headers(self, record: Record) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-request-id", record.request_id.encode())]
        if record.endpoint:
            headers.append((b"server-timing", server_timing(record).encode()))
        if record.truncated:
            headers.append((b"x-truncated", in_ranges(record.truncated).encode()))
        if self._is_draining():
            headers.append((b"connection", b"close"))
        return headers


def _request_id(scope: Scope) -> str:
    """Return the id that the client gave, if it fits into a line of a log, or a new one."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _SANE_ID.fullmatch(given) else f"{getrandbits(_ID_BITS):0{_ID_BITS // 4}x}"


def server_timing(record: Record) -> str:
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


class ErrorMiddleware:
    """Answers what is raised where no FastAPI is: by the check of tokens, and by the interfaces."""

    def __init__(self, app: ASGIApp, errors: ErrorResponder) -> None:
        self._app = app
        self._errors = errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or what it raised."""
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            if record_of(scope).status:  # it is answered: by FastAPI, or in part
                raise
            await self._errors.respond(Request(scope), error)(scope, receive, send)
            if not isinstance(error, ServiceError | HTTPException):
                raise  # to the log, with its traceback, by way of the server


class AccessMiddleware:
    """Lets those pass who bring a token."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request.

        Raises:
            UnauthorizedError: it must bring a token, and brings none that is allowed.
        """
        self._access.check(scope)
        await self._app(scope, receive, send)

"""The record of each request, kept around the whole application: one place that sees every answer.

What the routes and the error handlers note in `request.state.record` ends here: in the headers
`X-Request-ID` and `Server-Timing`, in the log, and with those who count.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from functools import partial

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inference.record import Record
from web.logs import log_request

MEASURED = "/vectorize"

_SANE_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)


async def observed(
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
    hear: Callable[[Record], None],
    last: bool = False,
) -> None:
    """Run one HTTP request with a record in its state.

    Args:
        app: what answers it.
        scope: of ASGI, as the next two.
        receive: see there.
        send: see there.
        hear: is told of each request that is measured; must not raise, or the connection is closed.
        last: whether the client shall come back on another connection.
    """
    record = Record(request_id=_request_id(scope), what=f"{scope['method']} {_path(scope)}")
    scope.setdefault("state", {})["record"] = record
    is_measured = scope["path"] == MEASURED
    try:
        await app(scope, receive, partial(_send, record, send, is_measured, last))
    finally:
        if record.status:  # without one the caller was gone before there was an answer
            log_request(record)
            if is_measured:
                hear(record)


def _request_id(scope: Scope) -> str:
    """Return the id that the client gave, if it fits into a line of a log, or a new one."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex


def _path(scope: Scope) -> str:
    return repr(scope["path"][:100])[1:-1]  # no line breaks of a client's choice in the log


async def _send(
    record: Record, send: Send, is_measured: bool, last: bool, message: Message
) -> None:
    if message["type"] == "http.response.start":
        record.end(message["status"])
        headers = [*message.get("headers", []), (b"x-request-id", record.request_id.encode())]
        if is_measured:
            headers.append((b"server-timing", server_timing(record).encode()))
        if last:
            headers.append((b"connection", b"close"))
        message["headers"] = headers
    await send(message)


def server_timing(record: Record) -> str:
    """Write the header's value: milliseconds by stage, and in all."""
    stages = [*record.stages_s.items(), ("total", record.total_s)]
    return ", ".join(f"{stage};dur={1000 * seconds:.2f}" for stage, seconds in stages)

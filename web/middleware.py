"""The middleware of every HTTP request: its record, its token, its errors, and HEAD.

The record becomes the headers `X-Request-ID`, `Server-Timing`, `X-Truncated`, `X-No-Tokens` and
`X-Model`, a log line, and metrics.
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
from web.models import ServedModel
from web.record import RequestRecord
from web.scope import MODEL_PREFIX, read_header, read_path, split_model
from web.service import Service, get_service
from web.startup import report_startup_error

# Maximum number of ranges in a header. Some clients refuse headers over 8 kB.
_MAX_RUNS = 1024
_SANE_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)  # an id that is safe in a log line


class RequestMiddleware:
    """Records every request, checks its token, and answers its errors.

    Starlette would answer bugs outside of all middleware. Errors are answered here instead, so the
    record includes every answer, and other middleware sees every answer with all its headers.
    HEAD, which load balancers and uptime checks send, is answered like GET, without the body.

    Args:
        app: the inner application.
        endpoints: the endpoints, whose requests are counted.
        errors: builds error responses.
    """

    def __init__(
        self, app: ASGIApp, endpoints: Sequence[type[Endpoint[Any]]], errors: ErrorResponder
    ) -> None:
        self._app = app
        self._endpoints = {path: kind.paths[0] for kind in endpoints for path in kind.paths}
        self._errors = errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, and record its end."""
        if scope["type"] != "http":
            await self._app(scope, receive, report_startup_error(scope["app"].state, send))
            return
        path, method = read_path(scope), scope["method"]
        service: Service | None = getattr(scope["app"].state, "service", None)
        name = None
        if service and service.models.have_names and path.startswith(MODEL_PREFIX):
            name, path = split_model(scope, path)
        is_page = path == "/" and method in {"GET", "HEAD"}
        given_id = read_header(scope, b"x-request-id")
        record = RequestRecord(
            given_id if _SANE_ID.fullmatch(given_id) else f"{getrandbits(128):032x}",
            method,
            path,
            "" if is_page else self._endpoints.get(path, ""),
            scope["headers"],
        )
        scope.setdefault("state", {}).update(record=record, service=service)

        async def send_with_record(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.end(message["status"])
                headers = _response_headers(record)
                if service and service.draining:
                    headers.append((b"connection", b"close"))  # clients reconnect elsewhere
                message["headers"] = [*message.get("headers", ()), *headers]
            elif method == "HEAD" and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            model = _model_of(scope, path, name)
            scope["state"]["model"] = model
            record.model = model.name if model else ""
            inner = {**scope, "method": "GET"} if method == "HEAD" else scope
            await self._app(inner, receive, send_with_record)
        except Exception as error:
            if record.status:  # the answer has begun
                raise
            await self._errors.respond(Request(scope), error)(scope, receive, send_with_record)
            if not isinstance(error, ServiceError | HTTPException):
                raise  # the server logs it with its traceback
        finally:
            if record.status:  # 0 if the client disconnected before the answer
                if service and record.endpoint:
                    service.on_complete(record)
                log_request(record)  # includes the trace's id, which `on_complete` may set


def _model_of(scope: Scope, path: str, name: str | None) -> ServedModel | None:
    """Check a request's token; return the model of its path, else the only model, else None.

    Args:
        scope: the request.
        path: its path, without a model's prefix.
        name: the name in the prefix; None if it has no prefix.

    Raises:
        UnhealthyError: the service has not started.
        UnauthorizedError: the request has no allowed token.
        UnknownModelError: no model has the name.
    """
    service = get_service(scope)
    models = service.models
    if name is not None and name not in models.by_name:
        service.access.check(scope["path"], scope)  # of a probe, too: the answer lists the names
        raise models.unknown(name)
    service.access.check(path, scope)
    return models.only if name is None else models.by_name[name]


def _response_headers(record: RequestRecord) -> list[tuple[bytes, bytes]]:
    headers = [(b"x-request-id", record.request_id.encode())]
    if record.endpoint:
        stages = [*record.stages_s.items(), ("total", record.total_s)]
        timing = ", ".join(f"{stage};dur={1000 * seconds:.2f}" for stage, seconds in stages)
        headers.append((b"server-timing", timing.encode()))  # in milliseconds
    if record.truncated:
        headers.append((b"x-truncated", in_ranges(record.truncated).encode()))
    if record.no_tokens:
        headers.append((b"x-no-tokens", in_ranges(record.no_tokens).encode()))
    if record.model:
        headers.append((b"x-model", record.model.encode()))
    return headers


def in_ranges(places: Sequence[int]) -> str:
    """Format ascending indexes as ranges, such as `0,3-5`; `...` replaces too many ranges."""
    runs: list[list[int]] = []
    for place in places:
        if runs and place == runs[-1][-1] + 1:
            runs[-1][1:] = [place]
        else:
            runs.append([place])
    shown = ["-".join(map(str, run)) for run in runs[:_MAX_RUNS]]
    return ",".join(shown + ["..."] * (len(runs) > _MAX_RUNS))

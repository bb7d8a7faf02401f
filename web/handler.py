"""The one handler of all interfaces: body, parse, embed, serialise; and what leads to it.

It stands before FastAPI: a remembered text would spend 60 us of 150 in the layers of that.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from errors import RequestTooLargeError
from vectorizer import Vectorizer
from web.body import Intake, while_connected
from web.endpoints.base import Ask, Endpoint
from web.middleware import record_of


class EndpointHandler:
    """Answers the requests of one interface."""

    def __init__(self, endpoint: Endpoint[Any], vectorizer: Vectorizer, intake: Intake) -> None:
        self._endpoint = endpoint
        self._vectorizer = vectorizer
        self._intake = intake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one."""
        if scope["method"] != "POST":
            page = "GET, " if record_of(scope).path == "/" else ""
            raise HTTPException(405, headers={"Allow": f"{page}POST"})
        content = await self._answer(Request(scope, receive))
        await Response(content, media_type="application/json")(scope, receive, send)

    async def _answer(self, request: Request) -> bytes:
        record = record_of(request.scope)
        times = record.context.times
        times.read_began_s = time.perf_counter()
        async with self._intake.body_of(request) as body:
            ask: Ask = self._endpoint.parse(body)
            body.clear()  # the memory is wanted for the images
            times.read_ended_s = time.perf_counter()
            record.items = Counter(one.modality for one in ask.inputs)
            self._check(ask)
            async with while_connected(request):
                answers = await self._vectorizer.embed(ask.inputs, record.context)
        began_s = time.perf_counter()
        content = self._endpoint.serialise(ask, answers)
        times.serialise_s = time.perf_counter() - began_s
        record.truncated = [place for place, one in enumerate(answers) if one.truncated]
        return content

    def _check(self, ask: Ask) -> None:
        count, most = len(ask.inputs), self._endpoint.max_items
        if count > most:
            raise RequestTooLargeError(
                f"{count} texts and images; at most {most} are allowed in one request", "items"
            )


class EndpointRouter:
    """Leads requests to the interfaces, and all others past them."""

    def __init__(self, handlers: Mapping[str, ASGIApp], others: ASGIApp) -> None:
        self._handlers = handlers
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lead one."""
        handler = self._handlers.get(record_of(scope).endpoint, self._others)
        await handler(scope, receive, send)

"""The handler of all endpoints (body, parse, embed, serialize), and their routes.

The routes are Starlette's: FastAPI's layers would double the time of a cached answer.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from errors import InvalidInputError, RequestTooLargeError
from web.endpoints.base import Endpoint, ParsedRequest
from web.models import ServedModel
from web.record import RequestRecord
from web.service import get_service


def interface_routes(endpoints: Sequence[type[Endpoint[Any]]]) -> list[BaseRoute]:
    """Return a route for each path of the endpoints."""
    return [
        InterfaceRoute(
            path,
            EndpointHandler(kind),
            methods=["POST"],
            name=kind.paths[0].strip("/").replace("/", "_"),
        )
        for kind in endpoints
        for path in kind.paths
    ]


class InterfaceRoute(Route):
    """A route that sets itself as `scope["route"]` for middleware, as FastAPI's routes do."""

    @override
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = self
        if scope["method"] != "POST":
            page = "GET, " if self.path == "/" else ""  # the debug page is another route
            raise HTTPException(405, headers={"Allow": f"{page}POST"})
        await super().handle(scope, receive, send)


class EndpointHandler:
    """Answers the requests of an endpoint.

    Args:
        kind: the class of the endpoint.
    """

    def __init__(self, kind: type[Endpoint[Any]]) -> None:
        self._path = kind.paths[0]
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read a request, compute its vectors or scores, and send the answer."""
        content = await self._answer(scope, receive)
        headers = [
            (b"content-length", b"%d" % len(content)),
            (b"content-type", b"application/json"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, scope: Scope, receive: Receive) -> bytes:
        # A function of its own: while the answer is sent, nothing holds the request.
        service = get_service(scope)
        model: ServedModel | None = scope["state"]["model"]  # the path's, or the only one
        record: RequestRecord = scope["state"]["record"]
        times = record.context.times
        times.read_began_s = time.perf_counter()
        with service.body_reader.open(scope, receive) as request:
            body = await request.read()
            if model is None:
                model = service.models.of_body(self._path, body)
                record.model = model.name
            loaded = model.loaded
            if loaded is None:
                model.check_answers(self._kind)
                loaded = await model.load()
            vectorizer, endpoint = loaded.vectorizer, loaded.endpoints[self._path].of_body(body)
            record.errors = endpoint.errors
            parsed: ParsedRequest = endpoint.parse(body)
            body.clear()  # frees memory for the images
            vectorizer.used_at_s = times.read_ended_s = time.perf_counter()
            record.items = Counter(one.modality for one in parsed.inputs)
            _check(parsed, endpoint)
            vectorizer.in_flight += 1  # no await since the load, so it cannot have been unloaded
            try:
                answers = await vectorizer.embed(parsed.inputs, record.context)
            finally:
                vectorizer.in_flight -= 1
        vectorizer.used_at_s = began_s = time.perf_counter()
        content = endpoint.serialize(parsed, answers)
        times.serialize_s = time.perf_counter() - began_s
        record.truncated = [place for place, one in enumerate(answers) if one.truncated]
        record.no_tokens = [
            place
            for place, (asked, one) in enumerate(zip(parsed.inputs, answers, strict=True))
            if asked.modality == "text" and not one.vector[0] and not one.vector.any()
        ]
        return content


def _check(parsed: ParsedRequest, endpoint: Endpoint[Any]) -> None:
    """Reject a request that the loaded model cannot serve, or that has too many inputs."""
    gives_scores, family = endpoint.info.scores, endpoint.info.family
    if endpoint.scores and not gives_scores:
        raise InvalidInputError(
            f"this model ({family}) makes vectors, and scores no documents: ask a reranker",
            "modality",
        )
    if gives_scores and not endpoint.scores:
        raise InvalidInputError(
            f"this model ({family}) is a reranker: it scores documents by POST /rerank, and makes "
            "no vectors",
            "modality",
        )
    count, most = len(parsed.inputs), endpoint.max_items
    if count > most:
        items = "documents" if endpoint.scores else "texts and images"
        raise RequestTooLargeError(
            f"{count} {items}; at most {most} are allowed in one request", "items"
        )

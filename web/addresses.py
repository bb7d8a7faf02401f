"""Addresses and methods, read forgivingly: what can only mean one thing answers as that.

Weaviate puts `/vectorize` behind whatever `CLIP_INFERENCE_API` holds, so that a slash at its end
makes `//vectorize`; a redirect of `/vectorize/` is not followed by `curl -d`; load balancers and
uptime checks ask by HEAD.
"""

from __future__ import annotations

from functools import partial

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class AddressMiddleware:
    """Reads `//vectorize` and `/vectorize/` as `/vectorize`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path = scope["path"]
        if "//" in path or path.endswith("/"):
            scope["path"] = "/" + "/".join(part for part in path.split("/") if part)
        await self._app(scope, receive, send)


class HeadMiddleware:
    """Answers HEAD as GET, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET"}, partial(_send_no_body, send)
        await self._app(scope, receive, send)


async def _send_no_body(send: Send, message: Message) -> None:
    if message["type"] == "http.response.body":
        message = {**message, "body": b""}
    await send(message)

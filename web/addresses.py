"""Normalizes paths and methods: extra slashes are ignored, and HEAD is answered like GET.

Weaviate puts `/vectorize` behind whatever `CLIP_INFERENCE_API` holds, so that a slash at its end
makes `//vectorize`; a redirect of `/vectorize/` is not followed by `curl -d`; load balancers and
uptime checks use HEAD.
"""

from __future__ import annotations

from functools import partial

from starlette.types import ASGIApp, Message, Receive, Scope, Send


def read_path(scope: Scope) -> str:
    """Return the request's path, relative to the prefix at which the application is mounted.

    `//vectorize` and `/vectorize/` are read as `/vectorize`. The scope holds the same path
    afterwards, with the prefix, for the router.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    is_below = root and f"{path}/".startswith(f"{root}/")  # some proxies remove the prefix
    if is_below:
        path = path[len(root) :]
    if "//" in path or path.endswith("/") or not path:
        path = "/" + "/".join(part for part in path.split("/") if part)
    if root:
        scope["root_path"] = root
    scope["path"] = root + path if is_below else path
    return path


class HeadMiddleware:
    """Answers HEAD like GET, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET"}, partial(_send_no_body, send)
        await self._app(scope, receive, send)


async def _send_no_body(send: Send, message: Message) -> None:
    if message["type"] == "http.response.body":
        message = {**message, "body": b""}
    await send(message)

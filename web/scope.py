"""Reads the path and the headers of an ASGI scope; extra slashes in a path are ignored.

Weaviate appends `/vectorize` to the value of `CLIP_INFERENCE_API`, so a slash at the end of the
value makes `//vectorize`. A redirect of `/vectorize/` would not help: `curl -d` does not follow it.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from starlette.types import Scope

MODEL_PREFIX = "/m/"  # prefix of the paths of a named model
_SLASH = re.compile(rb"%2f", re.IGNORECASE)


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


def split_model(scope: Scope, path: str) -> tuple[str, str]:
    """Split a path such as `/m/clip/vectorize` into a model's name and the rest, `/vectorize`.

    The prefix moves into the scope's `root_path`, as Starlette's `Mount` does it. So all routes
    answer below it as they do without it. A slash that is encoded as `%2F` separates nothing:
    `%2F` is part of the name, so no model matches.
    """
    name, _, rest = path.removeprefix(MODEL_PREFIX).partition("/")
    raw: bytes = scope.get("raw_path") or b""
    if _SLASH.search(raw):
        as_sent = [part for part in unquote(_SLASH.sub(b"%252F", raw)).split("/") if part]
        mounted_below = scope["path"].count("/") - path.count("/")
        name = next((part for part in as_sent[mounted_below:][:2] if "%2F" in part), name)
    scope["root_path"] = f"{scope.get('root_path', '')}{MODEL_PREFIX}{name}"
    scope["path"] = f"{scope['root_path']}/{rest}"
    return name, f"/{rest}"


def read_header(scope: Scope, name: bytes) -> str:
    """Return the first value of a header, by its name in lower case; empty if missing."""
    for key, value in scope["headers"]:  # a list, as few headers are read
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return ""

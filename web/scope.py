"""What ASGI's scope says of a request: its path, read forgivingly, and its headers.

Weaviate puts `/vectorize` behind whatever `CLIP_INFERENCE_API` holds, so that a slash at its end
makes `//vectorize`; a redirect of `/vectorize/` is not followed by `curl -d`.
"""

from __future__ import annotations

from starlette.types import Scope


def read_path(scope: Scope) -> str:
    """Return the path that is asked below the prefix at which the application is mounted.

    `//vectorize` and `/vectorize/` are read as `/vectorize`. The scope holds the same path
    afterwards, with the prefix, for the router.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    is_below = root and f"{path}/".startswith(f"{root}/")  # some proxies take the prefix away
    if is_below:
        path = path[len(root) :]
    if "//" in path or path.endswith("/") or not path:
        path = "/" + "/".join(part for part in path.split("/") if part)
    if root:
        scope["root_path"] = root
    scope["path"] = root + path if is_below else path
    return path


def header_of(scope: Scope, name: bytes) -> str:
    """Return a header's first value, by its name in lower case; empty where there is none."""
    for key, value in scope["headers"]:  # few are looked for: a list needs no index
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return ""

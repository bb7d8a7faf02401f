"""A hub on loopback: what huggingface_hub asks for, over small models.

Source of the protocol: https://huggingface.co/.well-known/openapi.json, and huggingface_hub's own
client. Unknown repositories, gated ones and bad tokens are answered as huggingface.co answers them.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_tests"  # the only one that the hub accepts


@dataclass(frozen=True)
class Content:
    """A file's content, made when it is asked for."""

    size: int
    read: Callable[[], Iterator[bytes]]


def of_bytes(content: bytes) -> Content:
    return Content(len(content), lambda: iter([content]))


def of_file(path: Path) -> Content:
    return Content(path.stat().st_size, lambda: iter([path.read_bytes()]))


@dataclass
class Repository:
    files: dict[str, Content]
    gated: bool = False
    branches: set[str] = field(default_factory=lambda: {"main"})

    @classmethod
    def of_folders(cls, *folders: Path, **files: Content) -> "Repository":
        """Gather the files of folders, later ones over earlier ones."""
        found = {
            str(path.relative_to(folder)): of_file(path)
            for folder in folders
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        return cls({**found, **files})


@dataclass
class Hub:
    """What the server holds, and what it was asked.

    Attributes:
        moved: old name -> new name, as for the models that once had no organisation.
        stalls_in: stop after the first half of this file, until `released`.
        status: answer everything with this status.
        asked: each request's method and path.
        tokens: the tokens that came.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    stalls_in: str | None = None
    stalled: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    status: int | None = None
    asked: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    url: str = ""

    def commit_of(self, name: str) -> str:
        return hashlib.sha1(name.encode()).hexdigest()


@contextmanager
def serving(hub: Hub, address: tuple[str, int] = ("127.0.0.1", 0)) -> Iterator[Hub]:
    """Serve a hub, on a free port of loopback if no address is given."""

    class Handler(_Handler):
        held = hub

    server = ThreadingHTTPServer(address, Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()


_API = re.compile(
    r"^/api/models/(?P<name>[^/]+(?:/[^/]+)?)(?:/(?P<verb>revision|tree)/(?P<rev>[^/]+))?$"
)
_RESOLVE = re.compile(r"^/(?P<name>[^/]+(?:/[^/]+)?)/resolve/(?P<rev>[^/]+)/(?P<file>.+)$")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    held: Hub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_arguments: object) -> None:
        """Print nothing."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.held.asked.append(f"{self.command} {path}")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token:
            self.held.tokens.add(token)
        if self.held.status:
            self._send(self.held.status, {})
        elif token and token != TOKEN:
            message = "Invalid credentials in Authorization header"
            self._send(401, {"X-Error-Message": message}, {"error": message})
        elif match := _API.match(path) or _RESOLVE.match(path):
            self._answer_about(match, path, known=bool(token))
        else:
            self._send(404, {})

    def _answer_about(self, match: re.Match[str], path: str, known: bool) -> None:
        parts = match.groupdict()
        name = parts["name"]
        if new := self.held.moved.get(name):
            self._send(307, {"Location": path.replace(name, new, 1)})
        elif name not in self.held.repositories:
            # A client without access is not told whether a repository exists.
            self._fail(404 if known else 401, "RepoNotFound", "Repository not found")
        elif not self._has_revision(name, parts["rev"]):
            self._fail(404, "RevisionNotFound", f"Invalid rev id: {parts['rev']}")
        elif "file" not in parts:
            self._send_listing(name, parts["verb"] == "tree")
        elif self.held.repositories[name].gated and not known:
            self._fail(401, "GatedRepo", f"Access to model {name} is restricted")
        elif parts["file"] not in self.held.repositories[name].files:
            self._fail(404, "EntryNotFound", "Entry not found")
        else:
            self._send_file(name, parts["file"])

    def _has_revision(self, name: str, revision: str | None) -> bool:
        known = self.held.repositories[name].branches | {self.held.commit_of(name)}
        return revision is None or revision in known

    def _send_listing(self, name: str, tree: bool) -> None:
        files = self.held.repositories[name].files
        if tree:
            entries = [
                {"type": "file", "path": path, "size": content.size, "oid": _etag(name, path)}
                for path, content in files.items()
            ]
            self._send(200, {}, entries)
            return
        siblings = [
            {"rfilename": path, "size": content.size, "blobId": _etag(name, path)}
            for path, content in files.items()
        ]
        sha = self.held.commit_of(name)
        self._send(200, {}, {"id": name, "modelId": name, "sha": sha, "siblings": siblings})

    def _send_file(self, name: str, file: str) -> None:
        content = self.held.repositories[name].files[file]
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        headers = {
            "X-Repo-Commit": self.held.commit_of(name),
            "ETag": f'"{_etag(name, file)}"',
            "Accept-Ranges": "bytes",
            "Content-Length": str(content.size - start),
        }
        if start:
            headers["Content-Range"] = f"bytes {start}-{content.size - 1}/{content.size}"
        self._send_head(206 if start else 200, headers)
        if self.command == "GET":
            self._send_content(content, start, stall=file == self.held.stalls_in)

    def _send_content(self, content: Content, start: int, stall: bool) -> None:
        whole = iter([b"".join(content.read())[start:]]) if start or stall else content.read()
        for piece in whole:
            if stall:
                self.wfile.write(piece[: len(piece) // 2])
                self.wfile.flush()
                self.held.stalled.set()
                self.held.released.wait()
                return
            self.wfile.write(piece)

    def _fail(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(status, headers, {"error": message})

    def _send(self, status: int, headers: dict[str, str], body: object = None) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        typed = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        self._send_head(status, {**typed, **headers})
        if self.command == "GET":
            self.wfile.write(content)

    def _send_head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _etag(name: str, file: str) -> str:
    return hashlib.sha1(f"{name}/{file}".encode()).hexdigest()

"""A fast HTTP/1.1 client: one kept-alive connection, one request at a time.

It does no more than a load generator needs, as on a small machine it shares the cores with the
service that it measures.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urlsplit

from bench.wire import Request

TIMEOUT_S = 120
_BUFFER_BYTES = 1 << 20


class Target(NamedTuple):
    """Host, port and base path of a service."""

    host: str
    port: int
    base_path: str = ""

    @classmethod
    def from_url(cls, url: str) -> Target:
        """Parse a URL.

        Raises:
            ValueError: the URL does not begin with http://.
        """
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{url}: expected a URL such as http://localhost:8080")
        return cls(parts.hostname, parts.port or 80, parts.path.rstrip("/"))


class Answer(NamedTuple):
    """The status and the body of an answer."""

    status: int
    body: bytes


class Connection:
    """Sends requests to a target, one after the other; connects when needed."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: Request) -> Answer:
        """Send a request and return the whole answer.

        Raises:
            OSError: the connection failed, or the answer took longer than TIMEOUT_S.
            ValueError: the answer is not HTTP/1.1.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._ask(request)
        except EOFError as error:
            self.close()
            raise ConnectionResetError("the answer ended early") from error
        except (OSError, ValueError):
            self.close()
            raise

    async def content(self, request: Request) -> bytes:
        """Send a request and return the body of its answer.

        Raises:
            RuntimeError: the status is not 200.
        """
        status, body = await self.ask(request)
        if status != HTTPStatus.OK:
            raise RuntimeError(f"status {status}: {body!r}")
        return body

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self._streams:
            self._streams[1].close()
        self._streams = None

    async def _ask(self, request: Request) -> Answer:
        reader, writer = self._streams = self._streams or await asyncio.open_connection(
            self._target.host, self._target.port, limit=_BUFFER_BYTES
        )
        writer.writelines([self._head(request), request.body])
        await writer.drain()
        status, headers = _parse_head(await reader.readuntil(b"\r\n\r\n"))
        body = await _read_body(reader, status, headers)
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, body)

    def _head(self, request: Request) -> bytes:
        base_path = self._target.base_path if request.method == "POST" else ""
        return (
            f"{request.method} {base_path}{request.path} HTTP/1.1\r\n"
            f"Host: {self._target.host}:{self._target.port}\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(request.body)}\r\n\r\n"
        ).encode("ascii")


def _parse_head(raw: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
    protocol, _, rest = first.partition(" ")
    if not protocol.startswith("HTTP/1."):
        raise ValueError("the answer is not HTTP/1.1")
    fields = (line.partition(":") for line in lines)
    return int(rest.split(" ")[0]), {name.lower(): value.strip() for name, _, value in fields}


async def _read_body(reader: asyncio.StreamReader, status: int, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return await _read_chunks(reader)
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    if status == 204:  # has no body and no length
        return b""
    raise ValueError("an answer without a length")


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    chunks = []
    while size := int((await reader.readline()).split(b";")[0], 16):
        chunks.append(await reader.readexactly(size))
        await reader.readline()
    await reader.readline()
    return b"".join(chunks)

"""A stand-in for a replica that fails on demand, in ways that the real one can't be made to."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum

_CHUNK_BYTES = 1 << 16


class Conduct(Enum):
    """What a stand-in does with a request."""

    ANSWERS = "answers"
    REFUSES_429 = "answers 429"
    REFUSES_503 = "answers 503"
    REFUSES_429_EARLY = "answers 429 before it has read the body"
    FAILS_500 = "answers 500"
    FAILS_422 = "answers 422"
    DIES_WHILE_READING = "dies in the middle of the body"
    DIES_BEFORE_ANSWER = "dies when it has read the body"
    DIES_IN_ANSWER = "dies in the middle of its answer"
    FREEZES = "accepts, and is silent"


_STATUS = {
    Conduct.ANSWERS: 200,
    Conduct.DIES_IN_ANSWER: 200,
    Conduct.REFUSES_429: 429,
    Conduct.REFUSES_429_EARLY: 429,
    Conduct.REFUSES_503: 503,
    Conduct.FAILS_500: 500,
    Conduct.FAILS_422: 422,
}


@dataclass
class StandIn:
    """One upstream.

    Attributes:
        answer_s: how long an answer takes.
        asked: how many requests came here, probes not counted.
    """

    address: str
    port: int
    conduct: Conduct = Conduct.ANSWERS
    answer_s: float = 0.0
    asked: int = 0
    ready: bool = True
    _connections: set[asyncio.StreamWriter] = field(default_factory=set)
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        listener = socket.create_server((self.address, self.port))
        async with await asyncio.start_server(self._serve, sock=listener):
            yield
        self._over.set()
        for connection in self._connections:
            connection.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET "):
                    status = b"204 No Content" if self.ready else b"503 X\r\nContent-Length: 0"
                    writer.write(b"HTTP/1.1 %b\r\n\r\n" % status)
                elif not await self._answer(head, reader, writer):
                    break
                await writer.drain()
        except (EOFError, ConnectionError):
            pass
        finally:
            self._connections.discard(writer)
            writer.transport.abort()

    async def _answer(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Handle one request; return whether the connection is kept."""
        self.asked += 1
        conduct, length = self.conduct, _length_of(head)
        if conduct is Conduct.FREEZES:
            await self._over.wait()
            return False
        if conduct is Conduct.DIES_WHILE_READING:
            await _digest(reader, length // 2)
            return False
        early = conduct is Conduct.REFUSES_429_EARLY
        digest = "" if early else await _digest(reader, length)
        await asyncio.sleep(self.answer_s)
        if conduct is Conduct.DIES_BEFORE_ANSWER:
            return False
        body = json.dumps({"sha256": digest, "error": conduct.value}).encode()
        writer.write(b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n" % _STATUS[conduct])
        writer.write(b"Content-Length: %d\r\n\r\n" % len(body))
        dies = conduct is Conduct.DIES_IN_ANSWER
        writer.write(body[: len(body) // 2] if dies else body)
        await writer.drain()
        if early:
            await _digest(reader, length)
        await asyncio.sleep(0.05 * dies)
        return not dies


def _length_of(head: bytes) -> int:
    (line,) = (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return int(line.partition(b":")[2])


async def _digest(reader: asyncio.StreamReader, length: int) -> str:
    digest = hashlib.sha256()
    while length:
        chunk = await reader.read(min(length, _CHUNK_BYTES))
        if not chunk:
            raise EOFError
        digest.update(chunk)
        length -= len(chunk)
    return digest.hexdigest()

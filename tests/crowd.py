"""Clients of a running service: good ones that check each vector, and bad ones."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field

import numpy as np

from bench.client import Connection, Target
from bench.wire import Request
from tests.service import Service

TOLERANCE = 1e-5  # of a vector alone to the same one in a batch
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True)
class Item:
    """Something to embed: a text, or the base64 of an image."""

    kind: str  # "texts" or "images"
    content: str


@dataclass
class Known:
    """The vectors that a service gave when nobody else asked."""

    vectors: dict[Item, np.ndarray] = field(default_factory=dict)

    @property
    def items(self) -> list[Item]:
        return list(self.vectors)

    def check(self, items: Sequence[Item], body: bytes) -> None:
        """Fail if an answer holds another vector than the one of its item."""
        answer = json.loads(body)
        for kind, key in (("texts", "textVectors"), ("images", "imageVectors")):
            wanted = [self.vectors[item] for item in items if item.kind == kind]
            assert len(answer[key]) == len(wanted)
            if wanted:
                np.testing.assert_allclose(np.float32(answer[key]), wanted, rtol=0, atol=TOLERANCE)


def request_of(items: Sequence[Item]) -> Request:
    lists = {
        kind: [item.content for item in items if item.kind == kind] for kind in ("texts", "images")
    }
    body = {kind: contents for kind, contents in lists.items() if contents}
    return Request("POST", "/vectorize", json.dumps(body).encode())


def target_of(service: Service) -> Target:
    return Target("127.0.0.1", service.port)


async def learn(target: Target, items: Sequence[Item]) -> Known:
    """Ask for each item alone, one after the other."""
    known, connection = Known(), Connection(target)
    for item in items:
        answer = await connection.ask(request_of([item]))
        assert answer.status == 200, answer.body
        parsed = json.loads(answer.body)
        known.vectors[item] = np.array(
            (parsed["textVectors"] + parsed["imageVectors"])[0], np.float32
        )
    connection.close()
    return known


async def good(service: Service, known: Known, requests: int, seed: int) -> Counter[int]:
    """Ask again and again for a few items, and check every vector; count the answers."""
    rng, connection, statuses = random.Random(seed), Connection(target_of(service)), Counter[int]()
    for _ in range(requests):
        items = rng.sample(known.items, rng.choice((1, 1, 1, 2, 5)))
        answer = await connection.ask(request_of(items))
        statuses[answer.status] += 1
        if answer.status == 200:
            known.check(items, answer.body)
    connection.close()
    return statuses


async def bad(service: Service, stop: asyncio.Event, seed: int) -> Counter[str]:
    """Misbehave in one way after the other until told to stop; return how often in each."""
    rng, done = random.Random(seed), Counter[str]()
    while not stop.is_set():
        misbehave = MISBEHAVIOURS[rng.randrange(len(MISBEHAVIOURS))]
        try:
            async with asyncio.timeout(20):
                await misbehave(service, rng)
        except (OSError, EOFError, ValueError):
            pass  # the service may cut such a client off
        done[misbehave.__name__] += 1
    return done


@asynccontextmanager
async def _opened(service: Service) -> AsyncIterator[Streams]:
    """A connection that is cut off at the end, however it comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def _head(length: int) -> bytes:
    return f"POST /vectorize HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


async def drop_in_the_body(service: Service, rng: random.Random) -> None:
    async with _opened(service) as (_, writer):
        writer.write(_head(1000) + b'{"texts": ["' + b"a" * rng.randrange(900))
        await writer.drain()


async def drop_before_the_answer(service: Service, rng: random.Random) -> None:
    request = request_of([Item("texts", f"never read {rng.random()}")])
    async with _opened(service) as (_, writer):
        writer.write(_head(len(request.body)) + request.body)
        await writer.drain()
        await asyncio.sleep(rng.random() / 50)


async def drop_in_the_answer(service: Service, rng: random.Random) -> None:
    request = request_of([Item("texts", f"half read {rng.random()}")])
    async with _opened(service) as (reader, writer):
        writer.write(_head(len(request.body)) + request.body)
        await reader.read(50)


async def send_slowly(service: Service, rng: random.Random) -> None:
    request = request_of([Item("texts", f"slow {rng.random()}")])
    async with _opened(service) as (reader, writer):
        for byte in _head(len(request.body)) + request.body:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.002)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")


async def send_junk(service: Service, rng: random.Random) -> None:
    async with _opened(service) as (reader, writer):
        writer.write(rng.randbytes(200) + b"\r\n\r\n")
        await reader.read(200)


async def ask_for_the_impossible(service: Service, rng: random.Random) -> None:
    body = rng.choice((b'{"images": ["?"]}', b'{"images": ["aGVsbG8="]}', b'{"texts": 3}', b"{"))
    with closing(Connection(target_of(service))) as connection:
        answer = await connection.ask(Request("POST", "/vectorize", body))
    assert answer.status == 422, answer
    assert json.loads(answer.body)["error"]


async def spoil_a_shared_batch(service: Service, rng: random.Random) -> None:
    items = [Item("texts", f"good {rng.random()}"), Item("images", "aGVsbG8="), Item("texts", "b")]
    with closing(Connection(target_of(service))) as connection:
        answer = await connection.ask(request_of(items))
        assert answer.status == 422, answer
        assert json.loads(answer.body)["error"].startswith("images[0]: not an image")
        answer = await connection.ask(request_of([Item("texts", f"good {rng.random()}")]))
        assert answer.status == 200, answer


async def announce_and_wait(service: Service, rng: random.Random) -> None:
    async with _opened(service) as (reader, writer):
        writer.write(_head(rng.choice((1_000, 90_000_000, 100_000_000))))
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.read()


async def send_head_without_end(service: Service, rng: random.Random) -> None:
    async with _opened(service) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\n")
        for _ in range(300):
            writer.write(b"X-A: " + rng.randbytes(500).hex().encode() + b"\r\n")
            await writer.drain()
        assert not (await reader.read()).startswith(b"HTTP/1.1 200")


async def pipeline_and_leave(service: Service, rng: random.Random) -> None:
    request = request_of([Item("texts", f"piped {rng.random()}")])
    async with _opened(service) as (reader, writer):
        writer.write((_head(len(request.body)) + request.body) * 5)
        await reader.read(100)


MISBEHAVIOURS: tuple[Callable[[Service, random.Random], Awaitable[None]], ...] = (
    drop_in_the_body,
    drop_before_the_answer,
    drop_in_the_answer,
    send_slowly,
    send_junk,
    ask_for_the_impossible,
    spoil_a_shared_batch,
    announce_and_wait,
    send_head_without_end,
    pipeline_and_leave,
)


async def ready_times(service: Service, stop: asyncio.Event, every_s: float = 0.05) -> list[float]:
    """Ask whether the service is ready until told to stop; return the seconds of each answer."""
    seconds, connection = [], Connection(target_of(service))
    while not stop.is_set():
        started_s = time.perf_counter()
        answer = await connection.ask(Request("GET", "/.well-known/ready"))
        seconds.append(time.perf_counter() - started_s)
        assert answer.status == 204
        await asyncio.sleep(every_s)
    connection.close()
    return seconds

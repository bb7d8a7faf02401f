"""What comes before a body, over a real socket, with a time that a test can wait for."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from web.protocol import MAX_HEAD_BYTES, Protocol

pytestmark = pytest.mark.anyio

KEEP_ALIVE_S = 1
OK = b"HTTP/1.1 200 OK"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer at once, whatever is still to come."""
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]}
    )
    await send({"type": "http.response.body"})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    config = uvicorn.Config(
        app,
        port=0,
        lifespan="off",
        http=Protocol,
        timeout_keep_alive=KEEP_ALIVE_S,
        log_config=None,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    yield server.servers[0].sockets[0].getsockname()[1]
    await server.shutdown()


async def said(port: int, *parts: bytes) -> bytes:
    """Send parts, and return all that is answered until the service closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET / HTTP/1.1\r\nHost:"])
async def test_a_connection_without_a_whole_head_is_closed(port: int, sent: bytes) -> None:
    assert await said(port, sent) == b""


async def test_a_request_that_was_answered_may_be_followed_by_another(port: int) -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

    assert (await said(port, request, request)).count(OK) == 2


@pytest.mark.parametrize("line", [b"a" * 1000, b"X-A: b\r\n" * 100])
async def test_a_head_without_end_is_refused(port: int, line: bytes) -> None:
    answer = await said(port, b"GET / HTTP/1.1\r\nX: ", *[line] * (300 * MAX_HEAD_BYTES // 65_536))

    assert b"400 Bad Request" in answer or answer == b""
    assert OK not in answer


async def test_what_is_no_http_is_answered_with_json(port: int) -> None:
    head, _, body = (await said(port, b"hello\r\n\r\n")).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 400")
    assert b"application/json" in head
    assert isinstance(json.loads(body)["error"], str)


async def test_a_large_body_that_was_answered_early_is_no_head(port: int) -> None:
    body = b"a" * (10 * MAX_HEAD_BYTES)
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)

    assert (await said(port, request, body, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")).count(OK) == 2

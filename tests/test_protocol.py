"""What comes before a body, over a real socket, with a time that a test can wait for."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from web import protocol
from web.protocol import MAX_HEAD_BYTES, Protocol

pytestmark = pytest.mark.anyio

KEEP_ALIVE_S = 1
OK = b"HTTP/1.1 200 OK"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer at once, whatever is still to come; with the body at `/echo`."""
    if scope["path"] == "/echo":
        await echo(receive, send)
        return
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]}
    )
    await send({"type": "http.response.body"})


async def echo(receive: Receive, send: Send) -> None:
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    length = str(len(body)).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]}
    )
    await send({"type": "http.response.body", "body": body})


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


UNREAD = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10000000\r\n\r\n"


async def test_a_client_that_sends_all_before_it_reads_gets_an_early_answer(port: int) -> None:
    """As Python's urllib and nginx do, with `Connection: close`: no reset takes the answer away."""

    def send_all_then_read() -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(UNREAD + b"a" * 10_000_000)
            return b"".join(iter(lambda: client.recv(1000), b""))

    assert (await asyncio.to_thread(send_all_then_read)).startswith(OK)


async def test_a_body_that_does_not_end_keeps_no_connection(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_REST_S", 0.2)

    assert OK in await said(port, UNREAD, b"a" * 1000)


JDK_OFFER = (  # as the JDK's HttpClient and `curl --http2` write it
    b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA"
    b"\r\nUpgrade: h2c\r\n"
)
OFFERS = {
    "h2c": JDK_OFFER,
    "websocket": b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    "two": b"Upgrade: h2c\r\nConnection: upgrade\r\nupgrade: foo/2, bar\r\n",
    "without Connection": b"Upgrade: h2c\r\n",
}
BODIES = {
    "length": b"Content-Length: 15\r\n\r\n" + b'{"texts":["a"]}',
    "chunked": b'Transfer-Encoding: chunked\r\n\r\n7\r\n{"texts\r\n8\r\n":["a"]}\r\n0\r\n\r\n',
}
LAST = b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\nlast"


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("offer", OFFERS)
async def test_an_offer_of_another_protocol_is_ignored_and_the_body_read(
    port: int, offer: str, body: str
) -> None:
    request = b"POST /echo HTTP/1.1\r\nHost: x\r\n" + OFFERS[offer] + BODIES[body]
    head = request.index(b"\r\n\r\n") + 4

    for cut in (len(request), head - 2, head, head + 1, len(request) - 1):
        answer = await said(port, request[:cut], request[cut:], request, LAST)
        assert answer.count(OK) == 3
        assert answer.count(b'\r\n\r\n{"texts":["a"]}') == 2
        assert answer.endswith(b"last")
    answer = await said(port, 2 * request + LAST)
    assert answer.count(OK) == 3


async def test_an_offer_is_ignored_however_the_request_is_cut(port: int) -> None:
    request = b"POST /echo HTTP/1.1\r\nHost: x\r\n" + JDK_OFFER + BODIES["length"] + LAST

    async def ask(cut: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request[:cut])
        await asyncio.sleep(0.01)  # so that the service reads each part by itself
        writer.write(request[cut:])
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return answer

    answers = await asyncio.gather(*(ask(cut) for cut in range(1, len(request))))
    assert {(one.count(OK), one.count(b'{"texts":["a"]}')) for one in answers} == {(2, 1)}


async def test_an_offer_without_a_body_is_ignored_too(port: int) -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\n" + JDK_OFFER + b"\r\n"

    assert (await said(port, request, request, LAST)).count(OK) == 3


async def test_head_and_body_of_an_answer_leave_in_one_piece(port: int) -> None:
    """A service that is killed between two would leave its client with a head alone."""
    data_segments_in = 152  # where Linux has them in `struct tcp_info`: an unsigned int
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client: socket.socket = writer.get_extra_info("socket")
    for answers in range(1, 4):
        writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
        await reader.readuntil(b"body")
        info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        assert struct.unpack_from("I", info, data_segments_in) == (answers,)
    writer.close()

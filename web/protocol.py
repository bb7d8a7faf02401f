"""uvicorn's HTTP/1.1 protocol, with bounds on size and time of a request's head.

uvicorn bounds neither size nor time of a request's head: endless header lines would fill the
memory, and silent connections would stay open.

It also writes head and body of an answer separately. If the process is killed between the two, the
client has the head only, and no balancer may retry: here both are one write.

It closes a connection while the body of a request that was refused still arrives. Then the kernel
resets the connection, and the client loses the answer: here the rest of the body is read first.

Its parser loses the body of a request with `Upgrade: h2c`, which the JDK's client sends by default:
here such an offer is ignored, as HTTP allows, and the body is read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import httptools
import orjson
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES = 65_536
_REST_S = 5.0  # time for the rest of a body after its answer, before the connection is closed


class Protocol(HttpToolsProtocol):
    """Serves a connection; closes it if no complete head arrives within the keep-alive time."""

    _head_bytes = 0
    _is_in_body = False
    _deadline: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._writes = _WholeWrites(transport, self.loop, lambda: self._is_in_body)
        super().connection_made(self._writes)  # type: ignore[arg-type]
        self._expect_head()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._writes.stop_waiting()
        self._is_in_body = False
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if not self._is_in_body:
            self._head_bytes += len(data)
        while data:
            left, data = data, b""
            try:
                self.parser.feed_data(left)
            except httptools.HttpParserUpgrade as offer:  # httptools stops after the head
                if self.offers_upgrade():
                    (head_end,) = offer.args
                    data = self.head_without_offer() + left[head_end:]
                else:  # CONNECT
                    self._unsupported_upgrade_warning()
            except httptools.HttpParserError:
                message = "Invalid HTTP request received."
                self.logger.warning(message)
                self.send_400_response(message)
        if self.transport.is_closing() or not self._is_idle():
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self.send_400_response(f"the request's head has over {MAX_HEAD_BYTES} bytes")
        elif not self._deadline:
            self._expect_head()

    @override
    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.offers_upgrade():
            return  # the parser reads the head again, without the offer
        self._stop_waiting()
        self._head_bytes, self._is_in_body = 0, True
        super().on_headers_complete()

    @override
    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and self.offers_upgrade():
            return
        self._is_in_body = False
        super().on_message_complete()
        self._writes.close_if_waiting()

    @override
    def send_400_response(self, msg: str) -> None:
        """Answer invalid HTTP with a JSON error, and close."""
        self._is_in_body = False  # the rest cannot be read
        content = orjson.dumps({"error": msg})
        head = (
            "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + content)
        self.transport.close()

    def offers_upgrade(self) -> bool:
        """Return whether the parser stopped at `Upgrade`, and not at CONNECT."""
        return any(name == b"upgrade" for name, _ in self.headers)

    def head_without_offer(self) -> bytes:
        """Return the head that was read, without its `Upgrade` headers."""
        version = self.parser.get_http_version().encode("ascii")
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _expect_head(self) -> None:
        self._deadline = self.loop.call_later(self.timeout_keep_alive, self._give_up)

    def _give_up(self) -> None:
        self._deadline = None
        logger.debug("A connection is closed: no request was sent")
        self.transport.abort()

    def _stop_waiting(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None


class _WholeWrites:
    """A transport that joins all writes of one pass of the event loop.

    It is closed once the rest of a body has arrived, at the latest after `_REST_S`, or if it is
    closed once more.

    Args:
        transport: the transport of the connection.
        loop: the event loop.
        is_in_body: tells whether a part of a request's body is still to come.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        is_in_body: Callable[[], bool],
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._is_in_body = is_in_body
        self._closing: asyncio.TimerHandle | None = None
        self._pieces: list[bytes] = []
        self.is_closing = transport.is_closing  # called for every request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)

    def close(self) -> None:
        self._flush()
        if self._is_in_body() and not self._closing:
            self._closing = self._loop.call_later(_REST_S, self._transport.close)
            return
        self.stop_waiting()
        self._transport.close()

    def close_if_waiting(self) -> None:
        """Close the transport if it waits for the rest of a body."""
        if self._closing:
            self.close()

    def stop_waiting(self) -> None:
        """Cancel the timer of a transport that waits for the rest of a body."""
        if self._closing:
            self._closing.cancel()

    def abort(self) -> None:
        self._pieces.clear()
        self._transport.abort()

    def _flush(self) -> None:
        if self._pieces:
            self._transport.write(b"".join(self._pieces))
            self._pieces.clear()

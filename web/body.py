"""Reads request bodies within bounds of size, memory and time, and watches for disconnects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import Request

from config import Settings
from errors import (
    ClientGoneError,
    ContentEncodingError,
    DeadlineExceededError,
    InvalidInputError,
    RequestTooLargeError,
    SlowRequestError,
)
from inference.tasks import exception_of
from web.budget import ByteBudget, Reservation
from web.headers import header_of

T = TypeVar("T")


class BodyReader:
    """Reads the bodies of requests."""

    def __init__(self, settings: Settings) -> None:
        self.budget = ByteBudget(settings.max_queue_bytes)
        self._max_bytes = settings.max_request_bytes
        self._timeout_s = settings.request_timeout_s

    @asynccontextmanager
    async def read_body(self, request: Request) -> AsyncIterator[bytearray]:
        """Read a body, and reserve its memory until the request is answered or times out.

        The body is converted to UTF-8, and the bounds apply to that.

        Raises:
            InvalidInputError: the body is not valid text.
            ContentEncodingError: the body is compressed.
            RequestTooLargeError: the body is too large.
            QueueFullError: the bodies of all requests together are too large.
            SlowRequestError: the body did not arrive in time.
            DeadlineExceededError: the request was not answered in time.
            ClientGoneError: the client disconnected meanwhile.
        """
        deadline = asyncio.timeout(self._timeout_s)
        is_read = False
        try:
            with self.budget.reserved() as reservation:
                async with deadline:
                    body = await self._read(request, reservation)
                    is_read = True
                    yield body
        except TimeoutError as error:
            if not deadline.expired():  # another timeout, which is a bug
                raise
            if is_read:
                late = f"not answered within {self._timeout_s:g} s"
                raise DeadlineExceededError(late) from error
            raise SlowRequestError(f"the body took over {self._timeout_s:g} s to arrive") from error

    async def _read(self, request: Request, reservation: Reservation) -> bytearray:
        _check_encoding(header_of(request.scope, b"content-encoding"))
        announced = header_of(request.scope, b"content-length")
        size = int(announced) if announced.isdecimal() else 0
        self._check(size)
        self.budget.check(size)  # reserved as it arrives: an announcement reserves nothing
        body = bytearray()
        is_whole = False
        while not is_whole:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            body += message.get("body", b"")
            self._check(len(body))
            reservation.grow_to(len(body))
            is_whole = not message.get("more_body", False)
        encoding = json.detect_encoding(body)
        if encoding != "utf-8":
            body = _in_utf8(body, encoding)
            self._check(len(body))
            reservation.grow_to(len(body))
        return body

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise RequestTooLargeError(
                f"the request body has {size} bytes or more; at most {self._max_bytes} are allowed",
                "too_large",
            )


def _check_encoding(encoding: str) -> None:
    if encoding.strip().lower() not in {"", "identity"}:
        raise ContentEncodingError(
            f"the request body has Content-Encoding: {encoding}; send it as it is, without one",
            "encoding",
        )


def _in_utf8(body: bytearray, encoding: str) -> bytearray:
    """Convert a body to UTF-8 without a byte-order mark; the parser reports lone surrogates.

    Raises:
        InvalidInputError: the body is not in that encoding.
    """
    try:
        text = body.decode(encoding, "surrogatepass")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"the request body: invalid JSON: {error}", "body") from error
    return bytearray(text.encode("utf-8", "surrogatepass"))


class while_connected:  # noqa: N801 - used as `asyncio.timeout` is
    """Cancels the enclosed work when the client disconnects, after its body was read.

    It cancels the current task, as `asyncio.timeout` does: a task for the work would cost more than
    a cached answer takes otherwise.

    Raises:
        ClientGoneError: the client disconnected.
        Exception: raised by the work, converted by `exception_of`.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._watcher: asyncio.Task[None] | None = None
        self._is_gone = False

    async def __aenter__(self) -> None:
        self._task = _current_task()
        # In the next pass of the event loop, which a cached answer does not need.
        self._start = asyncio.get_running_loop().call_soon(self._start_watching)

    async def __aexit__(
        self, _kind: object, error: BaseException | None, _traceback: object
    ) -> None:
        self._start.cancel()
        watcher, self._watcher = self._watcher, None  # avoids a reference cycle
        if watcher:
            watcher.cancel()
        if self._is_gone:
            self._task.uncancel()
            if error:  # no error is a bug if the client has gone
                raise ClientGoneError from error
        if error is None or isinstance(error, Exception):
            return
        is_asked_for = isinstance(error, asyncio.CancelledError) and self._task.cancelling()
        if not is_asked_for:  # no error handler answers a cancellation
            raise exception_of(error) from error

    def _start_watching(self) -> None:
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True
        self._task.cancel()


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("outside of a task")
    return task

"""A request comes in: within bounds of size, memory and time, while its client is there."""

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
    """Takes in the requests of one service."""

    def __init__(self, settings: Settings) -> None:
        self.budget = ByteBudget(settings.max_queue_bytes)
        self._max_bytes = settings.max_request_bytes
        self._timeout_s = settings.request_timeout_s

    @asynccontextmanager
    async def read_body(self, request: Request) -> AsyncIterator[bytearray]:
        """Read a request's body and hold its place until it is answered, or its time is over.

        It is UTF-8 then, whatever it came in; what is bounded is that.

        Raises:
            InvalidInputError: the body is no text.
            ContentEncodingError: the body is compressed.
            RequestTooLargeError: the body is.
            QueueFullError: the bodies of all requests together are.
            SlowRequestError: it did not arrive in time.
            DeadlineExceededError: it was not answered in time.
            ClientGoneError: the client went away meanwhile.
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
            if not deadline.expired():  # somebody else's, and a bug
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
        self.budget.check(size)  # it takes its place as it arrives: words alone keep nobody out
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
    """Return a body as UTF-8 without a byte-order mark; the parser names lone surrogates in it.

    Raises:
        InvalidInputError: it is not in that encoding.
    """
    try:
        text = body.decode(encoding, "surrogatepass")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"the request body: invalid JSON: {error}", "body") from error
    return bytearray(text.encode("utf-8", "surrogatepass"))


class while_connected:  # noqa: N801 - used as `asyncio.timeout` is
    """Gives up what is done inside when the client of a request, whose body was read, goes away.

    A task is given its own cancellation, as `asyncio.timeout` does: one for the work would cost
    a remembered text more than all else that is done for it.

    Raises:
        ClientGoneError: it did.
        Exception: whatever was raised inside, in the form that `exception_of` gives it.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._watcher: asyncio.Task[None] | None = None
        self._is_gone = False

    async def __aenter__(self) -> None:
        self._task = _current_task()
        # Once the event loop comes to it, which a remembered text does not wait for.
        self._start = asyncio.get_running_loop().call_soon(self._start_watching)

    async def __aexit__(
        self, _kind: object, error: BaseException | None, _traceback: object
    ) -> None:
        self._start.cancel()
        watcher, self._watcher = self._watcher, None  # its end would know this object
        if watcher:
            watcher.cancel()
        if self._is_gone:
            self._task.uncancel()
            if error:  # whatever it is: of a client that is gone nothing is a bug
                raise ClientGoneError from error
        if error is None or isinstance(error, Exception):
            return
        is_asked_for = isinstance(error, asyncio.CancelledError) and self._task.cancelling()
        if not is_asked_for:  # which no handler of errors would answer
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

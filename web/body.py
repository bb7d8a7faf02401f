"""Reads request bodies within bounds of size, memory and time, and watches for disconnects."""

from __future__ import annotations

import asyncio
import json
from contextlib import AbstractContextManager
from types import TracebackType

from starlette.types import Receive, Scope
from typing_extensions import override

from config import Settings
from errors import (
    ClientGoneError,
    ContentEncodingError,
    DeadlineExceededError,
    InvalidInputError,
    QueueFullError,
    RequestTooLargeError,
    ServiceError,
    SlowRequestError,
)
from inference.tasks import as_exception
from web.scope import read_header

# Seconds after which a task watches for a disconnect. For a short text the task costs a tenth of
# the event loop's work, so it starts only when most requests have ended.
_LOOK_OUT_AFTER_S = 0.1


class BodyReader:
    """Bounds the size of each request body, the size of all bodies, and each request's time.

    Attributes:
        held_bytes: bytes of the bodies of all unfinished requests.
    """

    def __init__(self, settings: Settings) -> None:
        self.held_bytes = 0
        self.timeout_s = settings.request_timeout_s
        self._max_bytes = settings.max_request_bytes
        self._max_held_bytes = settings.max_queue_bytes

    def open(self, scope: Scope, receive: Receive) -> OpenRequest:
        """Return a context for a request, which enforces the bounds until the answer."""
        return OpenRequest(self, scope, receive)

    def check(self, size: int, held: int) -> None:
        """Check that a body of a size is within the bounds.

        Args:
            size: size in bytes.
            held: bytes of the body that are counted already. A body above MAX_QUEUE_BYTES is
                accepted if no other body is held.

        Raises:
            RequestTooLargeError: the body is too large.
            QueueFullError: the bodies of all requests together are too large.
        """
        if size > self._max_bytes:
            raise RequestTooLargeError(
                f"the request body has {size} bytes or more; at most {self._max_bytes} are allowed",
                "too_large",
            )
        if self.held_bytes > held and self.held_bytes + size - held > self._max_held_bytes:
            raise QueueFullError(
                f"overloaded: requests of {self.held_bytes / 1e6:.0f} MB wait already; "
                "send less at a time",
                retry_after_s=1,
            )


class OpenRequest(AbstractContextManager["OpenRequest"]):
    """The context of a request until its answer: bounds its body and its time.

    The work inside is cancelled when the time is over or, after the body was read, when the client
    disconnects. The context cancels the current task, as `asyncio.timeout` does: a separate task
    would take longer than the rest of a cached answer.

    Raises:
        SlowRequestError: the body did not arrive in time.
        DeadlineExceededError: the request was not answered in time.
        ClientGoneError: the client disconnected meanwhile.
        Exception: raised by the work, converted by `as_exception`.
    """

    def __init__(self, reader: BodyReader, scope: Scope, receive: Receive) -> None:
        self._reader = reader
        self._scope = scope
        self._receive = receive
        self._held = 0
        self._is_read = self._is_slow = self._is_late = self._is_gone = False
        self._watcher: asyncio.Task[None] | None = None

    @override
    def __enter__(self) -> OpenRequest:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("outside of a task")
        self._task = task
        # To start a timer takes as long as the rest of this method. So the timer of the timeout is
        # started only when this first timer ends.
        first_s = min(_LOOK_OUT_AFTER_S, self._reader.timeout_s)
        self._timer = task.get_loop().call_later(first_s, self._go_on_slowly, first_s)
        return self

    @override
    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._reader.held_bytes -= self._held
        self._timer.cancel()
        watcher, self._watcher = self._watcher, None  # avoids a reference cycle
        if watcher:
            watcher.cancel()
        if self._is_late or self._is_gone:
            self._task.uncancel()
            if error:  # no error of a cancelled request is a bug
                raise self._reason() from error
        if error is None or isinstance(error, Exception):
            return
        is_asked_for = isinstance(error, asyncio.CancelledError) and self._task.cancelling()
        if not is_asked_for:  # no error handler answers a cancellation
            raise as_exception(error) from error

    async def read(self) -> bytearray:
        """Read the body, and convert it to UTF-8; the bounds apply to the result, too.

        Raises:
            InvalidInputError: the body is not valid text.
            ContentEncodingError: the body is compressed.
            RequestTooLargeError: the body is too large.
            QueueFullError: the bodies of all requests together are too large.
            ClientGoneError: the client disconnected meanwhile.
        """
        coding = read_header(self._scope, b"content-encoding")
        if coding and coding.strip().lower() not in {"", "identity"}:
            raise ContentEncodingError(
                f"the request body has Content-Encoding: {coding}; send it as it is, without one",
                "encoding",
            )
        announced = read_header(self._scope, b"content-length")
        # Bytes count as they arrive: Content-Length reserves nothing.
        self._reader.check(int(announced) if announced.isdecimal() else 0, held=0)
        body = bytearray()
        is_whole = False
        while not is_whole:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            body += message.get("body", b"")
            self._hold(len(body))
            is_whole = not message.get("more_body", False)
        encoding = json.detect_encoding(body)
        if encoding != "utf-8":
            try:  # the JSON parser reports lone surrogates later
                text = body.decode(encoding, "surrogatepass")
            except UnicodeDecodeError as error:
                raise InvalidInputError(
                    f"the request body: invalid JSON: {error}", "body"
                ) from error
            body = bytearray(text.encode("utf-8", "surrogatepass"))
            self._hold(len(body))
        self._is_read = True
        if self._is_slow:
            self._watcher = asyncio.create_task(self._watch())
        return body

    def _hold(self, size: int) -> None:
        if size > self._held:
            self._reader.check(size, self._held)
            self._reader.held_bytes += size - self._held
            self._held = size

    def _go_on_slowly(self, after_s: float) -> None:
        self._is_slow = True
        left_s = self._reader.timeout_s - after_s
        self._timer = self._task.get_loop().call_later(left_s, self._end_of_time)
        if self._is_read:
            self._watcher = asyncio.create_task(self._watch())

    def _end_of_time(self) -> None:
        if not self._is_gone:
            self._is_late = True
            self._task.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._is_late:
            self._is_gone = True
            self._task.cancel()

    def _reason(self) -> ServiceError:
        if self._is_gone:
            return ClientGoneError()
        if self._is_read:
            return DeadlineExceededError(f"not answered within {self._reader.timeout_s:g} s")
        return SlowRequestError(f"the body took over {self._reader.timeout_s:g} s to arrive")

"""A request comes in: within bounds of size, memory and time, while its client is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from config import Settings
from errors import (
    ClientGoneError,
    DeadlineExceededError,
    RequestTooLargeError,
    ServiceError,
    SlowRequestError,
)
from inference.admission import ByteBudget, Reservation
from inference.tasks import exception_of

T = TypeVar("T")


class Intake:
    """Takes in the requests of one service."""

    def __init__(self, settings: Settings) -> None:
        self.budget = ByteBudget(settings.max_queue_bytes)
        self._max_bytes = settings.max_request_bytes
        self._timeout_s = settings.request_timeout_s

    @asynccontextmanager
    async def body_of(self, request: Request) -> AsyncIterator[bytearray]:
        """Read a request's body and hold its place until it is answered, or its time is over.

        Raises:
            RequestTooLargeError: the body is.
            QueueFullError: the bodies of all requests together are.
            SlowRequestError: it did not arrive in time.
            DeadlineExceededError: it was not answered in time.
            ClientGoneError: the client went away meanwhile.
        """
        deadline = asyncio.timeout(self._timeout_s)
        late: ServiceError = SlowRequestError(f"the body took over {self._timeout_s:g} s to arrive")
        try:
            with self.budget.reserved() as reservation:
                async with deadline:
                    body = await self._read(request, reservation)
                    late = DeadlineExceededError(f"not answered within {self._timeout_s:g} s")
                    yield body
        except TimeoutError as error:
            if not deadline.expired():  # somebody else's, and a bug
                raise
            raise late from error
        except ClientDisconnect as error:
            raise ClientGoneError from error

    async def _read(self, request: Request, reservation: Reservation) -> bytearray:
        announced = request.headers.get("content-length", "")
        size = int(announced) if announced.isdecimal() else 0
        self._check(size)
        self.budget.check(size)  # it takes its place as it arrives: words alone keep nobody out
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            self._check(len(body))
            reservation.grow_to(len(body))
        return body

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise RequestTooLargeError(
                f"the request body has {size} bytes or more; at most {self._max_bytes} are allowed",
                "too_large",
            )


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do the work of a request whose body was read; give it up when its client goes away.

    Raises:
        ClientGoneError: it did.
        Exception: whatever the work raised, in the form that `exception_of` gives it.
    """
    task = asyncio.create_task(work)
    task.add_done_callback(_retrieve)
    gone = asyncio.create_task(_until_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return _result_of(task)
    finally:
        gone.cancel()
        task.cancel()
        del task  # as in `_result_of`


def _result_of(task: asyncio.Task[T]) -> T:
    try:
        return task.result()
    except Exception:
        raise
    except BaseException as error:  # which no handler of errors would answer
        raise exception_of(error) from error
    finally:
        del task  # or its error would keep it, and it the error, until the collector comes


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Look at how work ended: what fails when its client has gone would be logged as a bug."""
    if not task.cancelled():
        task.exception()


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

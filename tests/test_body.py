import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from config import Settings
from errors import (
    ClientGoneError,
    DeadlineExceededError,
    InvalidInputError,
    QueueFullError,
    RequestTooLargeError,
    SlowRequestError,
)
from web.body import BodyReader, OpenRequest

pytestmark = pytest.mark.anyio


def open_request(
    *messages: dict[str, Any], length: int | None = None, reader: BodyReader | None = None
) -> OpenRequest:
    """Return a request that receives these messages, and then nothing."""
    headers = [(b"content-length", str(length).encode())] if length is not None else []
    left = list(messages)

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    scope = {"type": "http", "method": "POST", "headers": headers}
    return (reader or BodyReader(Settings())).open(scope, receive)


GONE = {"type": "http.disconnect"}


def body(content: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": content, "more_body": more}


async def do(work: Awaitable[Any], request: OpenRequest) -> None:
    """Do some work once the body was read."""
    await request.read()
    await work


async def test_a_body_in_pieces_is_put_together() -> None:
    reader = BodyReader(Settings())
    with open_request(body(b"ab", more=True), body(b"cd"), reader=reader) as request:
        assert await request.read() == b"abcd"
        assert reader.held_bytes == 4
    assert reader.held_bytes == 0


async def test_a_body_that_says_it_is_too_large_is_refused_unread() -> None:
    reader = BodyReader(Settings(max_request_bytes=10))

    with (
        pytest.raises(RequestTooLargeError, match="11 bytes or more; at most 10"),
        open_request(length=11, reader=reader) as request,
    ):
        await request.read()


async def test_a_body_that_does_not_say_so_is_refused_as_it_grows() -> None:
    reader = BodyReader(Settings(max_request_bytes=10))
    pieces = body(b"12345678", more=True), body(b"901", more=True), body(b"x" * 99)

    with (
        pytest.raises(RequestTooLargeError, match="11 bytes or more"),
        open_request(*pieces, reader=reader) as request,
    ):
        await request.read()
    assert reader.held_bytes == 0


async def test_a_body_takes_its_place_as_it_arrives_and_not_by_its_announcement() -> None:
    reader = BodyReader(Settings(max_queue_bytes=100))
    came = body(b"x" * 80, more=True)

    async def read(*messages: dict[str, Any], length: int) -> int:
        with open_request(*messages, length=length, reader=reader) as request:
            return len(await request.read())

    first = asyncio.create_task(read(came, length=90))
    await asyncio.sleep(0)

    assert await read(body(b"x" * 20), length=20) == 20
    with pytest.raises(QueueFullError):  # refused at once, before it is sent
        await read(length=30)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert reader.held_bytes == 0


async def test_a_body_larger_than_all_that_may_wait_passes_alone_in_however_many_pieces() -> None:
    reader = BodyReader(Settings(max_queue_bytes=100))
    pieces = [body(b"x" * 60, more=True), body(b"x" * 60)]
    with open_request(*pieces, length=120, reader=reader) as request:
        assert len(await request.read()) == 120
        with (
            pytest.raises(QueueFullError),
            open_request(body(b"y"), reader=reader) as other,
        ):
            await other.read()
    assert reader.held_bytes == 0


async def test_a_body_is_utf_8_whatever_it_came_in_and_bounded_as_that() -> None:
    reader = BodyReader(Settings(max_request_bytes=8))
    text = "日本"
    with open_request(body(f"[{text}".encode("utf-16-le")), reader=reader) as request:
        assert await request.read() == f"[{text}".encode()
        assert reader.held_bytes == 7
    with (
        pytest.raises(RequestTooLargeError, match="10 bytes or more; at most 8"),
        open_request(body(f"[{text}本".encode("utf-16-le")), reader=reader) as request,
    ):
        await request.read()
    assert reader.held_bytes == 0


async def test_a_body_in_half_a_character_is_no_json() -> None:
    with (
        pytest.raises(InvalidInputError, match="invalid JSON"),
        open_request(body(b"\xff\xfea")) as request,
    ):
        await request.read()


async def test_a_body_that_does_not_come_is_late_and_so_is_work_that_does_not_end() -> None:
    reader = BodyReader(Settings(request_timeout_s=0.01))

    with (
        pytest.raises(SlowRequestError, match=r"over 0\.01 s"),
        open_request(body(b"ab", more=True), reader=reader) as request,
    ):
        await request.read()
    with (
        pytest.raises(DeadlineExceededError, match=r"within 0\.01 s"),
        open_request(body(b"ab"), reader=reader) as request,
    ):
        await do(asyncio.Event().wait(), request)
    task = asyncio.current_task()
    assert task
    assert not task.cancelling()
    assert reader.held_bytes == 0


async def test_work_ends_when_its_client_goes() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(ClientGoneError), open_request(body(b""), GONE) as request:
        await do(work(), request)
    await asyncio.wait_for(ended.wait(), 1)


async def test_nobody_looks_out_for_the_client_of_work_that_soon_ends() -> None:
    asked = 0

    async def receive() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        if asked % 2:
            return body(b"")
        await asyncio.Event().wait()
        raise AssertionError

    reader = BodyReader(Settings())
    with reader.open({"type": "http", "headers": []}, receive) as request:
        await request.read()
        await asyncio.sleep(0)
    await asyncio.sleep(0.2)
    assert asked == 1
    asked = 0
    with reader.open({"type": "http", "headers": []}, receive) as request:
        await request.read()
        await asyncio.sleep(0.2)
    assert asked == 2


async def test_work_that_fails_when_its_client_has_gone_is_no_bug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise InvalidInputError("images[0]: a broken image", "broken_image")

    with pytest.raises(ClientGoneError), open_request(body(b""), GONE) as request:
        await do(work(), request)
    await asyncio.sleep(0)
    gc.collect()  # asyncio logs what nobody asked for when it is collected

    assert not caplog.records


@pytest.mark.usefixtures("without_collector")
async def test_work_that_failed_stays_in_no_memory() -> None:
    class Image:
        pass

    async def fail(_: Image) -> None:
        raise ZeroDivisionError

    async def wait(_: Image) -> None:
        await asyncio.Event().wait()

    async def ask(work: Callable[[Image], Awaitable[None]]) -> weakref.ref[Image]:
        image = Image()
        with (
            suppress(ZeroDivisionError, ClientGoneError),
            open_request(body(b""), GONE) as request,
        ):
            await request.read()
            await work(image)
        return weakref.ref(image)

    for work in (fail, wait):
        image = await ask(work)
        await asyncio.sleep(0.01)  # the event loop still has its callbacks to do
        assert image() is None


async def test_work_that_is_cancelled_by_another_or_panics_is_a_failure() -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    async def panics() -> None:
        raise BaseException("a panic")  # noqa: TRY002

    for work in (cancelled(), panics()):
        with pytest.raises(RuntimeError), open_request(body(b"")) as request:
            await do(work, request)


async def test_a_client_that_goes_while_it_sends_is_gone() -> None:
    with (
        pytest.raises(ClientGoneError),
        open_request(body(b"ab", more=True), GONE) as request,
    ):
        await request.read()


async def test_the_failure_of_work_passes_through() -> None:
    async def fail() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), open_request(body(b"")) as request:
        await do(fail(), request)

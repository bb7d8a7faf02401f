import asyncio
import gc
import weakref
from contextlib import suppress
from typing import Any

import pytest
from starlette.requests import Request

from config import Settings
from errors import (
    ClientGoneError,
    InvalidInputError,
    QueueFullError,
    RequestTooLargeError,
)
from web.body import BodyReader, while_connected

pytestmark = pytest.mark.anyio


def request_of(*messages: dict[str, Any], length: int | None = None) -> Request:
    """Return a request that receives these messages, and then nothing."""
    headers = [(b"content-length", str(length).encode())] if length is not None else []
    left = list(messages)

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


def body(content: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": content, "more_body": more}


async def test_a_body_in_pieces_is_put_together() -> None:
    body_reader = BodyReader(Settings())
    async with body_reader.read_body(request_of(body(b"ab", more=True), body(b"cd"))) as content:
        assert content == b"abcd"
        assert body_reader.budget.used == 4
    assert body_reader.budget.used == 0


async def test_a_body_that_says_it_is_too_large_is_refused_unread() -> None:
    body_reader = BodyReader(Settings(max_request_bytes=10))

    with pytest.raises(RequestTooLargeError, match="11 bytes or more; at most 10"):
        async with body_reader.read_body(request_of(length=11)):
            raise AssertionError


async def test_a_body_that_does_not_say_so_is_refused_as_it_grows() -> None:
    body_reader = BodyReader(Settings(max_request_bytes=10))
    request = request_of(body(b"12345678", more=True), body(b"901", more=True), body(b"x" * 99))

    with pytest.raises(RequestTooLargeError, match="11 bytes or more"):
        async with body_reader.read_body(request):
            raise AssertionError
    assert body_reader.budget.used == 0


async def test_a_body_takes_its_place_as_it_arrives_and_not_by_its_announcement() -> None:
    body_reader = BodyReader(Settings(max_queue_bytes=100))
    came = body(b"x" * 80, more=True)
    first = asyncio.create_task(body_reader.read_body(request_of(came, length=90)).__aenter__())
    await asyncio.sleep(0)

    async with body_reader.read_body(request_of(body(b"x" * 20), length=20)) as content:
        assert len(content) == 20
    with pytest.raises(QueueFullError):  # refused at once, before it is sent
        async with body_reader.read_body(request_of(length=30)):
            raise AssertionError
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert body_reader.budget.used == 0


async def test_a_body_larger_than_all_that_may_wait_passes_alone_in_however_many_pieces() -> None:
    body_reader = BodyReader(Settings(max_queue_bytes=100))
    pieces = [body(b"x" * 60, more=True), body(b"x" * 60)]
    async with body_reader.read_body(request_of(*pieces, length=120)) as content:
        assert len(content) == 120
        with pytest.raises(QueueFullError):
            async with body_reader.read_body(request_of(body(b"y"))):
                raise AssertionError
    assert body_reader.budget.used == 0


async def test_a_body_is_utf_8_whatever_it_came_in_and_bounded_as_that() -> None:
    body_reader = BodyReader(Settings(max_request_bytes=8))
    text = "日本"
    async with body_reader.read_body(request_of(body(f"[{text}".encode("utf-16-le")))) as content:
        assert content == f"[{text}".encode()
        assert body_reader.budget.used == 7
    with pytest.raises(RequestTooLargeError, match="10 bytes or more; at most 8"):
        async with body_reader.read_body(request_of(body(f"[{text}本".encode("utf-16-le")))):
            raise AssertionError
    assert body_reader.budget.used == 0


async def test_a_body_in_half_a_character_is_no_json() -> None:
    with pytest.raises(InvalidInputError, match="invalid JSON"):
        async with BodyReader(Settings()).read_body(request_of(body(b"\xff\xfea"))):
            raise AssertionError


async def test_work_ends_when_its_client_goes() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(ClientGoneError):
        async with while_connected(request_of({"type": "http.disconnect"})):
            await work()
    await asyncio.wait_for(ended.wait(), 1)


async def test_nobody_looks_out_for_the_client_of_work_that_does_not_wait() -> None:
    asked = 0

    async def receive() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        await asyncio.Event().wait()
        raise AssertionError

    request = Request({"type": "http"}, receive)
    async with while_connected(request):
        pass
    await asyncio.sleep(0.01)
    assert asked == 0
    async with while_connected(request):
        await asyncio.sleep(0.01)
    assert asked == 1


async def test_work_that_fails_when_its_client_has_gone_is_no_bug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise InvalidInputError("images[0]: a broken image", "broken_image")

    with pytest.raises(ClientGoneError):
        async with while_connected(request_of({"type": "http.disconnect"})):
            await work()
    await asyncio.sleep(0)
    gc.collect()  # asyncio logs what nobody asked for when it is collected

    assert not caplog.records


async def test_work_that_failed_stays_in_no_memory() -> None:
    class Image:
        pass

    async def fail(_: Image) -> None:
        raise ZeroDivisionError

    async def ask() -> weakref.ref[Image]:
        image = Image()
        with suppress(ZeroDivisionError):
            async with while_connected(request_of()):
                await fail(image)
        return weakref.ref(image)

    gc.collect()
    gc.disable()
    try:
        image = await ask()
        await asyncio.sleep(0.01)  # the event loop still has its callbacks to do
        assert image() is None
    finally:
        gc.enable()


async def test_work_that_is_cancelled_by_another_or_panics_is_a_failure() -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    async def panics() -> None:
        raise BaseException("a panic")  # noqa: TRY002

    for work in (cancelled(), panics()):
        with pytest.raises(RuntimeError):
            async with while_connected(request_of()):
                await work


async def test_a_client_that_goes_while_it_sends_is_gone() -> None:
    body_reader = BodyReader(Settings())
    request = request_of(body(b"ab", more=True), {"type": "http.disconnect"})

    with pytest.raises(ClientGoneError):
        async with body_reader.read_body(request):
            raise AssertionError


async def test_the_result_and_the_failure_of_work_pass_through() -> None:
    async def fine() -> int:
        return 3

    async def fail() -> int:
        raise ZeroDivisionError

    async with while_connected(request_of()):
        assert await fine() == 3
    with pytest.raises(ZeroDivisionError):
        async with while_connected(request_of()):
            await fail()

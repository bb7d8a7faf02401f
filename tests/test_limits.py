"""What is refused, and how: through ASGI, on a backend that can be held up."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.asgi import serving
from tests.fakes import FakeModel, vector_of
from tests.image_files import base64_of, file_of, plain

pytestmark = pytest.mark.anyio


def images(count: int) -> list[str]:
    return [base64_of(plain((number, 0, 0))) for number in range(count)]


@pytest.mark.parametrize(
    ("settings", "body", "status", "sentence"),
    [
        ({"max_request_bytes": 50}, {"texts": ["a" * 50]}, 413, "the request body has 65 bytes"),
        ({"max_request_items": 2}, {"texts": ["a", "b", "c"]}, 413, "3 texts and images; at most"),
        ({"max_text_chars": 3}, {"texts": ["abc", "abcd"]}, 413, "texts[1]: 4 characters; at"),
        ({"max_image_bytes": 9}, {"images": images(1)}, 413, "images[0]: a file of 69 bytes"),
        ({"max_image_pixels": 63}, {"images": images(1)}, 413, "images[0]: 8x8 pixels are more"),
        ({"image_formats": "gif"}, {"images": images(1)}, 422, "images[0]: not an image of an"),
    ],
)
async def test_each_limit_is_told_in_a_sentence(
    settings: dict[str, Any], body: dict[str, list[str]], status: int, sentence: str
) -> None:
    async with serving(FakeModel(), **settings) as client:
        answer = await client.post("/vectorize", content=json.dumps(body))

    assert answer.status_code == status
    assert answer.json()["error"].startswith(sentence)


async def test_the_defaults_admit_64_items_in_a_request() -> None:
    body = {"texts": [f"text {i}" for i in range(32)], "images": images(32)}
    async with serving(FakeModel()) as client:
        answer = await client.post("/vectorize", json=body)

    assert answer.status_code == 200
    assert len(answer.json()["textVectors"]) == len(answer.json()["imageVectors"]) == 32


async def test_the_defaults_let_2048_requests_wait() -> None:
    backend = FakeModel()
    backend.gate.clear()
    async with serving(backend) as client:
        asked = [
            asyncio.create_task(client.post("/vectorize", json={"texts": [f"text {i}"]}))
            for i in range(2048)
        ]
        await until_queued(client, 2048)
        backend.gate.set()
        answers = await asyncio.gather(*asked)

    for i, answer in enumerate(answers):
        assert answer.json()["textVectors"] == [pytest.approx(vector_of(f"text {i}").tolist())]


async def until_queued(client: httpx.AsyncClient, count: int) -> None:
    metrics = ""
    for _ in range(2000):
        metrics = (await client.get("/metrics")).text
        if f'inference_queue_items{{modality="text"}} {count}.0' in metrics:
            return
        await asyncio.sleep(0.005)
    raise TimeoutError(metrics)


@pytest.fixture
async def busy() -> AsyncIterator[tuple[FakeModel, httpx.AsyncClient]]:
    """Give a service whose two places are taken."""
    backend = FakeModel()
    backend.gate.clear()
    async with serving(backend, max_queue_items=2) as client:
        asked = [
            asyncio.create_task(client.post("/vectorize", json={"texts": [f"text {i}"]}))
            for i in range(2)
        ]
        await until_queued(client, 2)
        yield backend, client
        backend.gate.set()
        assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200, 200]


async def test_what_does_not_fit_the_queue_is_refused_at_once(
    busy: tuple[FakeModel, httpx.AsyncClient],
) -> None:
    answer = await busy[1].post("/vectorize", json={"texts": ["one more"]})

    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"] == "overloaded: 2 items wait already; send less at a time"


async def test_probes_and_the_other_lane_do_not_feel_a_full_queue(
    busy: tuple[FakeModel, httpx.AsyncClient],
) -> None:
    backend, client = busy

    assert (await client.get("/.well-known/ready")).status_code == 204
    backend.gate.set()
    assert (await client.post("/vectorize", json={"images": images(1)})).status_code == 200


async def test_a_repeat_is_answered_from_memory_though_the_queue_is_full() -> None:
    backend = FakeModel()
    async with serving(backend, max_queue_items=1) as client:
        first = await client.post("/vectorize", json={"texts": ["known"]})
        backend.gate.clear()
        waiting = asyncio.create_task(client.post("/vectorize", json={"texts": ["new"]}))
        await until_queued(client, 1)
        again = await client.post("/vectorize", json={"texts": ["known"]})
        backend.gate.set()
        await waiting

    assert again.json() == first.json()


async def test_bodies_that_wait_are_bounded_together() -> None:
    backend = FakeModel()
    backend.gate.clear()
    async with serving(backend, max_queue_bytes=100) as client:
        waiting = asyncio.create_task(client.post("/vectorize", json={"texts": ["a" * 60]}))
        await until_queued(client, 1)
        refused = await client.post("/vectorize", json={"texts": ["b" * 60]})
        backend.gate.set()
        answered = await waiting
        later = await client.post("/vectorize", json={"texts": ["b" * 60]})

    assert (refused.status_code, answered.status_code, later.status_code) == (429, 200, 200)
    assert "MB wait already" in refused.json()["error"]


async def test_what_is_not_answered_in_time_is_504_and_never_computed() -> None:
    backend = FakeModel()
    backend.gate.clear()
    async with serving(backend, request_timeout_s=0.2) as client:
        first = asyncio.create_task(client.post("/vectorize", json={"texts": ["first"]}))
        await asyncio.to_thread(backend.busy.wait, 10)
        late = await client.post("/vectorize", json={"texts": ["late"]})
        backend.gate.set()
        await first
        await client.post("/vectorize", json={"texts": ["next"]})

    assert late.status_code == 504
    assert late.json()["error"] == "not answered within 0.2 s"
    assert ["late"] not in backend.text_batches


async def test_a_body_that_does_not_arrive_is_408() -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b'{"texts":'
        await asyncio.sleep(10)

    async with serving(FakeModel(), request_timeout_s=0.2) as client:
        answer = await client.post("/vectorize", content=slow())

    assert answer.status_code == 408
    assert answer.json()["error"] == "the body took over 0.2 s to arrive"


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer first", 200),
        ("bearer  second ", 200),
        (f"Basic {base64_of(b'weaviate:first')}", 200),
        (f"basic  {base64_of(b':second')} ", 200),
        ("Bearer third", 401),
        ("Basic first", 401),
        (f"Basic {base64_of(b'first')}", 401),
        (f"Basic {base64_of(b'first:third')}", 401),
        (f"Basic {base64_of(b'first:')}", 401),
        (f"Basic {base64_of(b'x:first:')}", 401),
        (f"Bearer {base64_of(b'x:first')}", 401),
        ("Basic \xe9", 401),
        ("Digest first", 401),
        ("first", 401),
        ("Bearer ", 401),
        ("Bearer \xe9", 401),
        (None, 401),
    ],
)
async def test_a_token_opens_what_tokens_close(authorization: str | None, status: int) -> None:
    given = authorization and authorization.encode("latin-1")
    headers = [(b"Authorization", given)] if given else []
    tokens = "first, second"
    async with serving(FakeModel(), authentication_allowed_tokens=tokens) as client:
        asked = await client.post("/vectorize", json={"texts": ["a"]}, headers=headers)
        meta = await client.get("/meta", headers=headers)
        probes = [await client.get(f"/.well-known/{probe}") for probe in ("live", "ready")]

    assert asked.status_code == meta.status_code == status
    assert [probe.status_code for probe in probes] == [204, 204]
    if status == 401:
        bearer, basic = asked.headers.get_list("www-authenticate")
        assert (bearer, basic[:12]) == ("Bearer", "Basic realm=")
        assert "Authorization: Bearer" in asked.json()["error"]


async def test_every_answer_carries_the_id_of_its_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(FakeModel()) as client:
        fine = await client.post("/vectorize", json={"texts": ["secret"]})
        wrong = await client.post("/vectorize", json={"texts": "secret"})
        named = await client.get("/meta", headers={"X-Request-ID": "from-the-client"})
        odd = await client.get("/meta", headers={"X-Request-ID": "two words"})

    lines = {record.getMessage(): record.levelname for record in caplog.records}
    for answer, level in ((fine, "DEBUG"), (wrong, "WARNING"), (named, "DEBUG")):
        found = [line for line in lines if answer.headers["x-request-id"] in line]
        assert [lines[line] for line in found] == [level]
    assert named.headers["x-request-id"] == "from-the-client"
    assert odd.headers["x-request-id"] != "two words"
    assert not [line for line in lines if "secret" in line]


async def test_a_very_long_image_is_refused_before_it_is_scaled() -> None:
    raw = file_of(Image.new("1", (200_000, 3)))
    async with serving(FakeModel(), max_image_pixels=1_000_000) as client:
        answer = await client.post("/vectorize", json={"images": [base64_of(raw)]})

    assert answer.status_code == 413
    assert answer.json()["error"].startswith("images[0]: 200000x3 pixels, once scaled, are more")

"""Forgiving addresses: what can only mean one thing answers as that."""

import gzip
import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from typing_extensions import override

from backends.model import Rows
from errors import DeviceLostError
from tests.asgi import app_of, serving
from tests.fakes import FakeModel
from tests.service import running

pytestmark = pytest.mark.anyio

ROUTES = ("/.well-known/live", "/.well-known/ready", "/health", "/meta", "/metrics", "/v1/models")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with serving(FakeModel()) as client:
        yield client


@pytest.mark.parametrize("path", ["/vectorize/", "//vectorize", "//vectorize//", "///vectorize"])
async def test_slashes_around_an_interfaces_path_change_nothing(
    client: httpx.AsyncClient, path: str
) -> None:
    answer = await client.post(f"http://test{path}", json={"texts": ["a"]})
    counted = (await client.get("/metrics")).text

    assert answer.status_code == 200
    assert 'inference_requests_total{code="200",endpoint="/vectorize"} 1.0' in counted


@pytest.mark.parametrize("path", ["//v1//embeddings/", "/v1/embeddings/"])
async def test_nor_do_they_in_it(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.post(f"http://test{path}", json={"input": "a"})

    assert answer.status_code == 200


@pytest.mark.parametrize("path", ROUTES)
async def test_nor_do_they_around_other_routes(client: httpx.AsyncClient, path: str) -> None:
    for written in (f"/{path}", f"{path}/"):
        assert (await client.get(f"http://test{written}")).status_code < 300


async def test_what_is_no_route_stays_none(client: httpx.AsyncClient) -> None:
    answer = await client.get("http://test//nothing")

    assert answer.status_code == 404
    assert answer.json() == {"error": "GET /nothing: Not Found"}


@pytest.mark.parametrize("path", [*ROUTES, "/"])
async def test_head_answers_as_get_without_the_body(client: httpx.AsyncClient, path: str) -> None:
    head, get = await client.head(path), await client.get(path)

    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers.get("content-type") == get.headers.get("content-type")


async def test_head_tells_that_the_service_ails() -> None:
    class Lost(FakeModel):
        @override
        def encode_text(self, texts: object) -> Rows:
            raise DeviceLostError("gone")

    async with serving(Lost()) as client:
        await client.post("/vectorize", json={"texts": ["a"]})
        answer = await client.head("/health")

    assert (answer.status_code, answer.content) == (503, b"")


async def test_an_interface_has_no_head(client: httpx.AsyncClient) -> None:
    assert (await client.head("/vectorize")).status_code == 405


async def test_health_is_ready_and_asks_for_no_token() -> None:
    async with serving(FakeModel(), authentication_allowed_tokens="a") as client:
        paths = ("/health", "//health/", "/meta")
        answers = [await client.get(f"http://test{path}") for path in paths]

    assert [answer.status_code for answer in answers] == [204, 204, 401]


ANSWERS_BELOW_A_PREFIX = {
    # path below the prefix: status without a token, and with one
    "POST /vectorize": (401, 200),
    "POST //vectorize/": (401, 200),
    "POST /v1//embeddings": (401, 200),
    "POST /nothing/": (401, 404),
    "GET /vectorize": (401, 405),
    "GET /": (401, 200),
    "GET /meta/": (401, 200),
    "HEAD /meta": (401, 200),
    "GET /health": (204, 204),
    "GET //health/": (204, 204),
    "HEAD /.well-known/live": (204, 204),
    "GET /.well-known//ready": (204, 204),
}


@pytest.mark.parametrize("asked", ANSWERS_BELOW_A_PREFIX)
async def test_below_a_prefix_all_is_as_without_one(asked: str) -> None:
    method, path = asked.split()
    body = {"texts": ["a"], "input": "a"}
    token = {"Authorization": "Bearer a"}
    answers = []
    for prefix in ("", "/clip", "/of/clip"):
        async with serving(FakeModel(), prefix=prefix, authentication_allowed_tokens="a") as client:
            url = f"http://test{prefix}{path}"
            stranger = await client.request(method, url, json=body)
            known = await client.request(method, url, json=body, headers=token)
            counted = await client.get(f"http://test{prefix}/metrics", headers=token)
        assert (stranger.status_code, known.status_code) == ANSWERS_BELOW_A_PREFIX[asked]
        code = f'code="{known.status_code}",endpoint="/vectorize"'
        answers.append((known.text.replace(prefix, ""), code in counted.text))

    assert len(set(answers)) == 1


async def test_errors_below_a_prefix_have_the_shape_of_their_path() -> None:
    async with serving(FakeModel(), prefix="/clip") as client:
        answer = await client.post("/clip/v1//embeddings/", json={})
        stranger = await client.get("/clipboard/v1/models")

    assert answer.json()["error"]["code"] == "body"
    assert stranger.status_code == 404


@pytest.mark.parametrize("root", ["/clip", "/clip/"])
async def test_a_proxy_may_keep_the_prefix_or_take_it_away(root: str) -> None:
    app = app_of(FakeModel(), authentication_allowed_tokens="a")
    transport = httpx.ASGITransport(app, root_path=root)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        for path in ("/health", "/health/", "/clip/health", "/clip//health"):
            assert (await client.get(path)).status_code == 204
        assert (await client.get("/cliphealth")).status_code == 401


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("/vectorize", "error"), ("/v1/embeddings", "message")],
)
async def test_a_compressed_body_is_told_so(
    client: httpx.AsyncClient, path: str, sentence: str
) -> None:
    body = gzip.compress(json.dumps({"texts": ["a"], "input": "a"}).encode())
    answer = await client.post(path, content=body, headers={"Content-Encoding": "gzip"})

    assert answer.status_code == 415
    assert "the request body has Content-Encoding: gzip" in answer.text
    assert f'"{sentence}":' in answer.text
    assert answer.headers["accept-encoding"] == "identity"


async def test_identity_is_no_encoding(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/vectorize", json={"texts": ["a"]}, headers={"Content-Encoding": "identity"}
    )

    assert answer.status_code == 200


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_the_address_of_all_ipv6_serves_ipv4_too(tmp_path: Path) -> None:
    with running(
        tmp_path / "log", (sys.executable, "-m", "tests.slow_service"), HOST="::"
    ) as service:
        for address in ("127.0.0.1", "::1"):
            with socket.create_connection((address, service.port), timeout=10) as connection:
                connection.sendall(b"HEAD /health HTTP/1.1\r\nHost: test\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 204")

"""The application as users of FastAPI know one: routes, state, others' middleware, mounts."""

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import app as application
from tests.asgi import app_of
from tests.fakes import FakeModel, vector_of
from vectorizer import Vectorizer
from web.endpoints import ENDPOINTS
from web.service import Service

PAGE = Path(__file__).parent.parent / "docs/api.md"
INTERFACES = [one.paths[0] for one in ENDPOINTS if not one.scores]
VECTOR = pytest.approx(vector_of("a").tolist())
TEXT = {"texts": ["a"]}


@pytest.fixture
def app() -> FastAPI:
    return app_of(FakeModel())


def test_it_is_a_plain_fastapi(app: FastAPI) -> None:
    assert type(app) is FastAPI
    assert type(application.app) is FastAPI


def test_its_routes_show_every_interface(app: FastAPI) -> None:
    posts = {route.path for route in app.routes if isinstance(route, Route) and has_post(route)}

    assert posts == {path for one in ENDPOINTS for path in one.paths} | {
        "/embed_all",
        "/embed_sparse",
    }
    assert app.url_path_for("vectorize") == "/vectorize"


def has_post(route: Route) -> bool:
    return "POST" in (route.methods or ())


def test_what_is_loaded_hangs_on_its_state(app: FastAPI) -> None:
    assert not hasattr(app.state, "service")
    with TestClient(app):
        service: Service = app.state.service
        assert [model.id for model in service.models] == ["fake/model"]
    assert not hasattr(app.state, "service")


def test_a_test_client_is_answered(app: FastAPI) -> None:
    with TestClient(app) as client:
        answer = client.post("/vectorize", json=TEXT)

    assert answer.json() == {"textVectors": [VECTOR], "imageVectors": []}


@pytest.mark.parametrize("path", ["/vectorize", "/v1/embeddings", "/health", "/meta", "/nothing"])
def test_a_request_before_the_lifespan_or_after_it_is_a_503(app: FastAPI, path: str) -> None:
    def refused() -> str:
        answer = TestClient(app).post(path, json=TEXT)
        assert answer.status_code == 503
        assert answer.headers["x-request-id"]
        return answer.text

    before = refused()
    with TestClient(app):
        pass
    assert refused() == before
    assert "app.router.lifespan_context(app)" in before
    assert ('"message"' in before) == path.startswith("/v1/")


def test_the_lifespan_may_run_again(app: FastAPI) -> None:
    for _ in range(2):
        with TestClient(app) as client:
            assert client.post("/vectorize", json=TEXT).status_code == 200


def test_openapi_describes_the_body_of_every_interface_and_of_routes_added_later(
    app: FastAPI,
) -> None:
    assert set(INTERFACES) <= app.openapi()["paths"].keys()
    assert app.openapi() is app.openapi()
    app.get("/mine")(lambda: None)
    with TestClient(app) as client:
        paths = client.get("/openapi.json").json()["paths"]
        assert client.get("/mine").status_code == 200

    assert "/mine" in paths
    for path in INTERFACES:
        assert paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]


# Middleware of others.


class HeaderMiddleware:
    """Sets a header on every answer, and notes the statuses and errors that it sees."""

    def __init__(self, app: ASGIApp, seen: list[Any]) -> None:
        self._app = app
        self._seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._seen.append(message["status"])
                message["headers"].append((b"x-mine", b"1"))
            await send(message)

        try:
            await self._app(scope, receive, send_with_header)
        except Exception as error:
            self._seen.append(type(error))
            raise


def test_a_middleware_that_sets_a_header_sees_every_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    seen: list[Any] = []
    app = app_of(FakeModel(), authentication_allowed_tokens="a")
    app.add_middleware(HeaderMiddleware, seen=seen)
    token = {"Authorization": "Bearer a"}
    with TestClient(app, raise_server_exceptions=False) as client:
        answers = [
            client.post("/vectorize", json=TEXT, headers=token),
            client.post("http://testserver//vectors/", json={"text": "a"}, headers=token),
            client.post("/vectorize", json=TEXT),
            client.post("/vectorize", json={"texts": 1}, headers=token),
            client.post("/v1/embeddings", json={}, headers=token),
            client.post("/vectorize", content="a", headers={**token, "Content-Encoding": "br"}),
            client.get("/vectorize", headers=token),
            client.get("/nothing", headers=token),
            client.get("/health"),
        ]
        monkeypatch.setattr(Vectorizer, "embed", fail)
        answers.append(client.post("/vectorize", json=TEXT, headers=token))
        counted = client.get("/metrics", headers=token).text

    statuses = [200, 200, 401, 422, 400, 415, 405, 404, 204, 500]
    assert [answer.status_code for answer in answers] == statuses
    assert {answer.headers.get("x-mine") for answer in answers} == {"1"}
    assert seen == [*statuses, ZeroDivisionError, 200]
    assert all("x-request-id" in answer.headers for answer in answers)
    assert answers[-1].json() == {"error": "internal error; the service's log has the details"}
    assert 'inference_requests_total{code="500",endpoint="/vectorize"} 1.0' in counted


def test_a_middleware_of_others_that_fails_is_answered_with_json(app: FastAPI) -> None:
    async def fail(request: Request, call_next: object) -> Response:
        raise ZeroDivisionError

    app.add_middleware(BaseHTTPMiddleware, dispatch=fail)
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.post("/vectorize", json=TEXT)
        of_openai = client.post("http://testserver//v1/embeddings", json={"input": "a"})

    assert answer.status_code == of_openai.status_code == 500
    assert answer.json() == {"error": "internal error; the service's log has the details"}
    assert of_openai.json()["error"]["type"] == "server_error"


def test_cors_answers_a_preflight_and_marks_every_answer() -> None:
    app = app_of(FakeModel(), authentication_allowed_tokens="a")
    app.add_middleware(
        CORSMiddleware,
        allow_origins=["https://a.example"],
        allow_methods=["POST"],
        allow_headers=["authorization", "content-type"],
    )
    origin = {"Origin": "https://a.example"}
    asked = {
        **origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    with TestClient(app) as client:
        preflight = client.options("/vectorize", headers=asked)
        stranger = client.post("/vectorize", json=TEXT, headers=origin)
        known = client.post(
            "/vectorize", json=TEXT, headers={**origin, "Authorization": "Bearer a"}
        )

    assert [answer.status_code for answer in (preflight, stranger, known)] == [200, 401, 200]
    for answer in (preflight, stranger, known):
        assert answer.headers["access-control-allow-origin"] == "https://a.example"


def test_gzip_packs_vectors_and_errors(app: FastAPI) -> None:
    app.add_middleware(GZipMiddleware, minimum_size=1)
    with TestClient(app) as client:
        fine = client.post("/vectorize", json=TEXT)
        wrong = client.post("/vectorize", json={"texts": 1})
        plain = client.post("/vectorize", json=TEXT, headers={"Accept-Encoding": "identity"})

    assert fine.headers["content-encoding"] == wrong.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert fine.json() == plain.json()
    assert wrong.json()["error"].startswith("texts: ")
    assert int(fine.headers["content-length"]) == len(gzip.compress(plain.content, 9, mtime=0))


@asynccontextmanager
async def listening(app: FastAPI) -> AsyncIterator[int]:
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


@pytest.mark.anyio
async def test_below_a_base_middleware_the_work_of_a_client_that_goes_is_given_up() -> None:
    async def pass_on(request: Request, call_next: Callable[[Request], Any]) -> Any:
        return await call_next(request)

    backend = FakeModel()
    backend.gate.clear()
    app = app_of(backend)
    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    body = json.dumps({"texts": ["a", "b"]}).encode()
    head = b"POST /vectorize HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with listening(app) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + body)
        await asyncio.to_thread(backend.busy.wait, 10)
        writer.close()
        async with (
            asyncio.timeout(10),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
        ):
            gone = 'inference_requests_total{code="499",endpoint="/vectorize"} 1.0'
            while gone not in (await client.get("/metrics")).text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            backend.gate.set()
            answer = await client.post("/vectorize", json=TEXT)

    assert answer.json()["textVectors"] == [VECTOR]


# Within an application of others.


@pytest.fixture
def outer(monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """The example of the documentation, with a model of the tests."""
    (example,) = re.findall(
        r"```python\n((?:(?!```).)*lifespan_context.*?)```", PAGE.read_text(), re.DOTALL
    )
    monkeypatch.setattr(application, "create_app", lambda: app_of(FakeModel()))
    names: dict[str, Any] = {}
    exec(example, names)
    outer: FastAPI = names["app"]
    return outer


def test_mounted_as_the_documentation_says_it_serves_below_its_prefix(outer: FastAPI) -> None:
    with TestClient(outer) as client:
        answer = client.post("/clip/vectorize", json=TEXT)
        slashes = client.post("/clip//vectorize/", json=TEXT)
        page = client.get("/clip/", headers={"Accept": "text/html"})
        described = client.get("/clip/openapi.json").json()

        assert client.get("/clip/health").status_code == 204
        assert client.get("/clip/nothing").json() == {"error": "GET /clip/nothing: Not Found"}
        assert client.post("/vectorize", json=TEXT).status_code == 404

    assert answer.json() == slashes.json() == {"textVectors": [VECTOR], "imageVectors": []}
    assert page.text.startswith("<!doctype html>")
    assert described["servers"] == [{"url": "/clip"}]
    assert "/vectorize" in described["paths"]


def test_mounted_without_its_lifespan_it_says_so(app: FastAPI) -> None:
    outer = FastAPI()
    outer.mount("/clip", app)
    with TestClient(outer) as client:
        answer = client.post("/clip/vectorize", json=TEXT)

    assert answer.status_code == 503
    assert "app.router.lifespan_context(app)" in answer.json()["error"]


def test_two_models_may_be_mounted_side_by_side() -> None:
    first, second = app_of(FakeModel()), app_of(FakeModel(), max_text_chars=1)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with first.router.lifespan_context(first), second.router.lifespan_context(second):
            yield

    outer = FastAPI(lifespan=lifespan)
    outer.mount("/first", first)
    outer.mount("/second", second)
    with TestClient(outer) as client:
        statuses = [
            client.post(f"/{name}/vectorize", json={"texts": ["ab"]}).status_code
            for name in ("first", "second")
        ]

    assert statuses == [200, 413]

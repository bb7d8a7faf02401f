"""The HTTP surface, through ASGI, on a backend whose vectors are functions of their inputs."""

import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

import vectorizer
from config import VERSION
from errors import BackendError
from tests.asgi import app_of, client_of, serving
from tests.fakes import FakeModel, vector_of
from tests.image_files import base64_of, file_of, plain
from vectorizer import Vectorizer
from web.endpoints import ENDPOINTS
from web.load_log import LoadLog
from web.metrics import Metrics

pytestmark = pytest.mark.anyio

IMAGE = base64_of(plain((9, 8, 7)))
IMAGE_VECTOR = vector_of(Image.new("RGB", (8, 8), (9, 8, 7)).tobytes()).tolist()


@pytest.fixture
def backend() -> FakeModel:
    return FakeModel()


@pytest.mark.parametrize("probe", ["live", "ready"])
async def test_probes_answer_204_without_a_body(client: httpx.AsyncClient, probe: str) -> None:
    answer = await client.get(f"/.well-known/{probe}")

    assert (answer.status_code, answer.content) == (204, b"")


async def test_a_service_that_shuts_down_is_unready_but_alive(backend: FakeModel) -> None:
    app = app_of(backend)
    async with client_of(app) as client:
        app.state.service.drain()
        ready = await client.get("/.well-known/ready")
        live = await client.get("/.well-known/live")

    assert (ready.status_code, ready.json()) == (503, {"error": "shutting down"})
    assert live.status_code == 204


async def test_meta_is_the_model_config_with_facts_of_the_service(
    client: httpx.AsyncClient,
) -> None:
    answer = (await client.get("/meta")).json()

    assert answer["model_type"] == "fake"
    assert answer["service"]["model"] == "fake/model"
    assert answer["service"]["revision"] == "c0ffee"
    assert answer["service"]["family"] == "fake"
    assert answer["service"]["modalities"] == ["text", "image"]
    assert answer["service"]["dimensions"] == 4
    assert answer["service"]["text_mode"] == "trained"
    assert answer["service"]["precision_refused"] is None
    assert answer["service"]["vector_space"] == ""
    assert answer["service"]["demo"] is False
    assert answer["service"]["cache"] == {"hits": 0, "shared": 0, "misses": 0, "size": 0}


async def test_meta_says_why_a_precision_is_not_used(backend: FakeModel) -> None:
    backend.info = replace(backend.info, refused="PRECISION=int8: it cannot, so float32 is used")
    async with serving(backend) as client:
        answer = (await client.get("/meta")).json()

    assert answer["service"]["precision"] == "float32"
    assert answer["service"]["precision_refused"] == backend.info.refused


@pytest.mark.parametrize(
    ("body", "texts", "images"),
    [
        ({"texts": ["a", "b"], "images": [IMAGE]}, ["a", "b"], 1),
        ({"texts": ["a"]}, ["a"], 0),
        ({"images": [IMAGE, IMAGE]}, [], 2),
        ({"texts": None, "images": [IMAGE]}, [], 1),
        ({"texts": ["a"], "images": []}, ["a"], 0),
        ({}, [], 0),
        ({"texts": ["a"], "unknown": {"deep": [1]}}, ["a"], 0),
        ({"images": ["data:image/png;base64," + IMAGE]}, [], 1),
        ({"images": ["\n data:image/png;base64," + IMAGE]}, [], 1),
    ],
)
async def test_either_list_may_be_missing_null_or_empty(
    client: httpx.AsyncClient, body: dict[str, Any], texts: list[str], images: int
) -> None:
    answer = await client.post("/vectorize", json=body)

    assert answer.status_code == 200
    assert answer.json() == {
        "textVectors": [pytest.approx(vector_of(text).tolist()) for text in texts],
        "imageVectors": [pytest.approx(IMAGE_VECTOR)] * images,
    }


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "text/plain", "application/json", None]
)
async def test_the_content_type_does_not_matter(
    client: httpx.AsyncClient, content_type: str | None
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    body = b'{"texts": ["foo bar"], "images":[]}'
    answer = await client.post("/vectorize", content=body, headers=headers)

    assert answer.status_code == 200
    assert len(answer.json()["textVectors"]) == 1


async def test_numbers_parse_back_to_the_same_float32(client: httpx.AsyncClient) -> None:
    answer = await client.post("/vectorize", json={"texts": ["a"]})
    parsed = np.array(json.loads(answer.content)["textVectors"][0], np.float32)

    np.testing.assert_array_equal(parsed, vector_of("a"))
    assert len(answer.content) < 90  # shortest decimals, not float64's seventeen digits


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "the request body: invalid JSON"),
        (b"texts=foo", "the request body: invalid JSON"),
        (b'{"texts": ["a"', "the request body: invalid JSON"),
        (b"[1, 2]", "the request body: "),
        (b'{"texts": "a"}', "texts: "),
        (b'{"texts": ["a", 3]}', "texts[1]: "),
        (b'{"images": [null]}', "images[0]: "),
        (b'{"texts": ["a", "\\ud800"]}', "texts[1]: not valid Unicode (lone surrogate)"),
        (b'{"texts": ["a", "b\xed\xa0\x80"]}', "texts[1]: not valid Unicode (lone surrogate)"),
        (b'"\\ud800"', "the request body: not valid Unicode (lone surrogate)"),
        (b'{"texts": ["a\xff"]}', "the request body: invalid JSON"),
        ("\ufeff{".encode("utf-16"), "the request body: invalid JSON"),
        (b"\xff\xfe{", "the request body: invalid JSON"),
        (b'{"texts": ["a", NaN]}', "texts[1]: Expected `str`, got `NaN`"),
        (b'{"x": NaN, "texts": ["a"}', "the request body: invalid JSON"),
        (b'{"texts": ["a"], "x": NaN, "y": "' + b"b" * 1_000_000 + b'"}', "the request body: inv"),
        (b"[" * 5000, "the request body: "),
        (b'{"x":' + b"[" * 100_000, "the request body: invalid JSON"),
        (json.dumps({"images": [IMAGE, "?"]}).encode(), "images[1]: not base64"),
        (json.dumps({"images": [base64_of(b"GIF")]}).encode(), "images[0]: not an image"),
    ],
)
async def test_a_bad_request_is_reported_what_was_wrong(
    client: httpx.AsyncClient, body: bytes, error: str
) -> None:
    answer = await client.post("/vectorize", content=body)

    assert answer.status_code == 422
    assert answer.json()["error"].startswith(error)
    assert list(answer.json()) == ["error"]


# A body for each interface, and what errors call the text in it.
TEXTS = {
    "/vectorize": ('{"texts": ["né 😀"], "x": %s}', "texts[0]"),
    "/vectors": ('{"text": "né 😀", "config": {"x": %s}}', "text"),
    "/v1/embeddings": ('{"input": [{"text": "né 😀", "x": %s}]}', "input[0].text"),
}
for_every_interface = pytest.mark.parametrize("path", TEXTS)


@for_every_interface
@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"],
)
async def test_a_body_is_read_in_every_encoding_that_json_has(
    client: httpx.AsyncClient, path: str, encoding: str
) -> None:
    body = TEXTS[path][0] % "1"
    expected = await client.post(path, content=body.encode())
    answer = await client.post(path, content=body.encode(encoding))

    assert answer.status_code == 200
    assert answer.content == expected.content


@for_every_interface
@pytest.mark.parametrize("ignored", ["NaN", "[-Infinity, {}]", '"\\ud800"', "1e999"])
async def test_what_python_writes_for_json_is_read_where_it_means_nothing(
    client: httpx.AsyncClient, path: str, ignored: str
) -> None:
    body = TEXTS[path][0]
    expected = await client.post(path, content=(body % "1").encode())
    answer = await client.post(path, content=(body % ignored).encode())

    assert answer.status_code == 200
    assert answer.content == expected.content


@for_every_interface
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32-be"])
async def test_a_text_that_is_no_unicode_is_named_in_every_encoding(
    client: httpx.AsyncClient, path: str, encoding: str
) -> None:
    body, name = TEXTS[path]
    no_unicode = (body % "1").replace("é", "\udfff").encode(encoding, "surrogatepass")
    answer = await client.post(path, content=no_unicode)

    assert answer.status_code == (400 if path.startswith("/v1/") else 422)
    assert f"{name}: not valid Unicode (lone surrogate)" in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/vectorize", 405), ("POST", "/meta", 405)],
)
async def test_wrong_routes_answer_json_with_an_error(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await client.request(method, path)

    assert answer.status_code == status
    assert path in answer.json()["error"]


def raising(error: Exception) -> Callable[..., Coroutine[Any, Any, None]]:
    async def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (BackendError("the model failed"), "the model failed"),
        (ZeroDivisionError("secret"), "internal error"),
    ],
)
async def test_a_fault_of_ours_is_500_and_tells_no_internals(
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    sentence: str,
) -> None:
    monkeypatch.setattr(Vectorizer, "embed", raising(error))
    answer = await client.post("/vectorize", json={"texts": ["a"]})

    assert answer.status_code == 500
    assert sentence in answer.json()["error"]
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("body", "stages"),
    [
        ({"texts": ["a"]}, ["read", "queue", "tokenize", "encode", "serialize", "total"]),
        (
            {"images": [IMAGE, IMAGE]},
            ["read", "queue", "decode", "preprocess", "encode", "serialize", "total"],
        ),
        ({"images": ["?"]}, ["read", "queue", "decode", "total"]),
        ({"texts": 1}, ["read", "total"]),
        ({}, ["read", "serialize", "total"]),
    ],
)
async def test_every_answer_tells_where_its_time_went(
    client: httpx.AsyncClient, body: dict[str, Any], stages: list[str]
) -> None:
    answer = await client.post("/vectorize", json=body)
    timing = re.findall(r"(\w+);dur=(\d+\.\d+)", answer.headers["server-timing"])

    assert [stage for stage, _ in timing] == stages
    *parts_ms, total_ms = (float(milliseconds) for _, milliseconds in timing)
    assert sum(parts_ms) <= total_ms + 0.01 * len(stages)  # each is rounded


async def test_answers_of_other_kinds_are_timed_too(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong_method = await client.get("/vectorize")
    monkeypatch.setattr(Vectorizer, "embed", raising(ZeroDivisionError()))
    bug = await client.post("/vectorize", json={"texts": ["a"]})

    assert (wrong_method.status_code, bug.status_code) == (405, 500)
    assert "total;dur=" in wrong_method.headers["server-timing"]
    assert "total;dur=" in bug.headers["server-timing"]
    assert "server-timing" not in (await client.get("/meta")).headers
    counted = (await client.get("/metrics")).text
    assert 'inference_requests_total{code="405",endpoint="/vectorize"} 1.0' in counted
    assert 'inference_request_failures_total{reason="bug"} 1.0' in counted


async def test_long_base64_waits_for_a_thread_in_the_queue_and_not_in_the_decoding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Stuck(FakeModel):
        def preprocess(self, image: Image.Image) -> bytes:
            self._pass_gate()
            return super().preprocess(image)

    monkeypatch.setattr(vectorizer, "usable_cores", lambda: 1)
    backend = Stuck()
    backend.gate.clear()
    async with serving(backend) as client:
        first = asyncio.create_task(client.post("/vectorize", json={"images": [IMAGE]}))
        await asyncio.to_thread(backend.busy.wait, 10)
        image = base64_of(file_of(Image.effect_noise((1100, 1100), 100)))
        long = asyncio.create_task(client.post("/vectorize", json={"images": [image]}))
        await asyncio.sleep(1)
        backend.gate.set()
        await first
        answer = await long

    assert len(image) > 1_000_000
    timing = dict(re.findall(r"(\w+);dur=(\d+\.\d+)", answer.headers["server-timing"]))
    assert float(timing["queue"]) > 700 > float(timing["decode"])


async def test_a_load_log_that_died_is_reported_and_keeps_nothing_from_being_closed(
    backend: FakeModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def die(_: LoadLog) -> None:
        raise ZeroDivisionError("no")

    closed: list[Vectorizer] = []

    async def aclose(self: Vectorizer) -> None:
        closed.append(self)

    monkeypatch.setattr(LoadLog, "run", die)
    monkeypatch.setattr(Vectorizer, "aclose", aclose)
    async with serving(backend) as client:
        assert (await client.post("/vectorize", json={"texts": ["a"]})).status_code == 200

    assert len(closed) == 1
    assert "The task load-log has ended: no" in caplog.text


async def test_an_observer_that_fails_leaves_the_connection_open(
    backend: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Metrics, "observe_request", fail)
    app = app_of(backend)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    asked = b'POST /vectorize HTTP/1.1\r\nhost: x\r\ncontent-length: 15\r\n\r\n{"texts":["a"]}'
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(3):
        writer.write(asked)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        await reader.readexactly(int(re.findall(rb"content-length: (\d+)", head)[0]))
        assert head.startswith(b"HTTP/1.1 200 OK")
    writer.close()
    server.should_exit = True
    await serving


BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


async def test_a_browser_gets_the_page_with_its_policy(client: httpx.AsyncClient) -> None:
    answer = await client.get("/", headers=BROWSER)
    policy = answer.headers["content-security-policy"]

    assert answer.headers["content-type"].startswith("text/html")
    assert answer.content.startswith(b"<!doctype html>")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.text.count('id="samples"') == 1
    assert "data:image/png;base64," in answer.text
    assert not re.search(r'(src|href)="(https?:)?//', answer.text)


@pytest.mark.parametrize("accept", [{"accept": "*/*"}, {"accept": "application/json"}])
async def test_other_clients_get_a_map_of_the_routes(
    client: httpx.AsyncClient, accept: dict[str, str]
) -> None:
    answer = (await client.get("/", headers=accept)).json()

    assert (answer["name"], answer["version"]) == ("multi2vec-clip-service", VERSION)
    assert "POST /vectorize" in answer["routes"]
    for route in answer["routes"]:
        method, path = route.replace("{model}", "fake/model").split()
        assert (await client.request(method, path)).status_code < 400 or method == "POST"


async def test_the_page_can_be_turned_off(backend: FakeModel) -> None:
    async with serving(backend, debug_page="0") as client:
        answer = await client.get("/", headers=BROWSER)

    assert answer.json()["name"] == "multi2vec-clip-service"


@pytest.mark.parametrize("path", [one.paths[0] for one in ENDPOINTS if not one.scores])
async def test_the_examples_of_the_docs_work_when_tried(
    client: httpx.AsyncClient, path: str
) -> None:
    description = (await client.get("/openapi.json")).json()
    body = description["paths"][path]["post"]["requestBody"]["content"]
    examples = body["application/json"]["schema"]["examples"]

    assert (await client.get("/docs")).status_code == 200
    assert examples
    for example in examples:
        answer = await client.post(path, json=example)
        assert answer.status_code == 200
    counted = (await client.get("/metrics")).text
    of_images = {"/vectorize", "/vectors", "/v1/embeddings"}
    for modality in ("text", "image") if path in of_images else ("text",):
        assert f'inference_items_total{{modality="{modality}"}} 0.0' not in counted

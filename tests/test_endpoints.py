"""An endpoint of another shape by the same code: one file, and one line in the table."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from typing_extensions import override

from backends.model import EncodeParams, Model, ModelInput
from tests.asgi import serving
from tests.fakes import AsItIs, FakeModel, vector_of
from tests.other_endpoint import Embeddings
from vectorizer import Vectorizer
from web.endpoints import ENDPOINTS

pytestmark = pytest.mark.anyio

PATH = "/other/embeddings"


def serving_both(
    backend: FakeModel, **settings: Any
) -> AbstractAsyncContextManager[httpx.AsyncClient]:
    return serving(backend, (*ENDPOINTS, Embeddings), **settings)


@pytest.fixture
def backend() -> FakeModel:
    backend = FakeModel()
    backend.info = replace(backend.info, cuts=True)
    return backend


@pytest.fixture
async def client(backend: FakeModel) -> AsyncIterator[httpx.AsyncClient]:
    async with serving_both(backend) as client:
        yield client


def unit(vector: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = vector / np.linalg.norm(vector)
    return scaled


async def test_vectors_are_cut_and_scaled_and_the_cache_holds_them_whole(
    client: httpx.AsyncClient,
) -> None:
    whole = await client.post("/vectorize", json={"texts": ["a"]})
    cut = await client.post(PATH, json={"input": "a", "model": "any", "dimensions": 2})
    again = await client.post("/vectorize", json={"texts": ["a"]})

    (item,) = cut.json()["data"]
    assert item["embedding"] == pytest.approx(unit(vector_of("a")[:2]).tolist())
    assert cut.json()["model"] == "any"
    assert whole.content == again.content
    assert (await client.get("/meta")).json()["service"]["cache"]["hits"] == 2


async def test_an_answer_may_hold_no_json_numbers(client: httpx.AsyncClient) -> None:
    asked = {"input": ["a", "b"], "encoding_format": "base64"}
    answer = (await client.post(PATH, json=asked)).json()

    for text, item in zip("ab", answer["data"], strict=True):
        vector = np.frombuffer(base64.b64decode(item["embedding"]), "<f4")
        np.testing.assert_allclose(vector, unit(vector_of(text)), rtol=1e-6)


class Letters(AsItIs):
    """Its tokens are letters."""

    @override
    def prepare(self, part: str, params: EncodeParams) -> ModelInput:
        return replace(super().prepare(part, params), tokens=len(part))


class LetterModel(FakeModel):
    @property
    @override
    def model(self) -> Model:
        model = super().model
        texts = replace(model.towers["text"], processor=Letters())
        return replace(model, towers={**model.towers, "text": texts})


async def test_tokens_are_counted_over_all_inputs() -> None:
    async with serving_both(LetterModel()) as client:
        first = await client.post(PATH, json={"input": ["a", "bcd"]})
        from_memory = await client.post(PATH, json={"input": ["bcd"]})

    assert first.json()["usage"] == {"total_tokens": 4}
    assert from_memory.json()["usage"] == {"total_tokens": 3}


async def test_an_interface_has_a_limit_of_its_own(backend: FakeModel) -> None:
    texts = [f"text {i}" for i in range(101)]
    async with serving_both(backend, max_request_items=2) as client:
        here = await client.post(PATH, json={"input": texts[:100]})
        too_many = await client.post(PATH, json={"input": texts})
        there = await client.post("/vectorize", json={"texts": texts[:3]})

    assert [answer.status_code for answer in (here, too_many, there)] == [200, 413, 413]


async def test_its_other_paths_mean_the_same(client: httpx.AsyncClient) -> None:
    answer = await client.post(f"{PATH}/", json={"input": "a"})

    assert answer.status_code == 200
    counted = (await client.get("/metrics")).text
    assert f'inference_requests_total{{code="200",endpoint="{PATH}"}} 1.0' in counted


async def test_requests_of_all_interfaces_are_counted_and_timed(client: httpx.AsyncClient) -> None:
    fine = await client.post(PATH, json={"input": ["a", "b"]})
    await client.post(PATH, json={"input": 1})
    await client.post("/vectorize", json={"texts": ["a"]})
    counted = (await client.get("/metrics")).text

    assert "serialize;dur=" in fine.headers["server-timing"]
    assert f'inference_requests_total{{code="200",endpoint="{PATH}"}} 1.0' in counted
    assert f'inference_requests_total{{code="400",endpoint="{PATH}"}} 1.0' in counted
    assert 'inference_requests_total{code="200",endpoint="/vectorize"} 1.0' in counted
    assert 'inference_items_total{modality="text"} 3.0' in counted
    assert 'inference_request_failures_total{reason="body"} 1.0' in counted


def assert_other_shape(answer: httpx.Response, status: int, sentence: str, code: str) -> None:
    error = answer.json()["error"]
    assert answer.status_code == status
    assert sentence in error["message"]
    assert error["code"] == code
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "sentence", "code"),
    [
        ("POST", PATH, b"{", 400, "the request body: invalid JSON", "body"),
        ("POST", PATH, b'{"input": [1]}', 400, "input[0]: Expected `str`", "body"),
        ("POST", PATH, b'{"input": ["a", "too long"]}', 413, "input[1]: 8 characters", "text_"),
        ("GET", PATH, b"", 405, f"GET {PATH}: Method Not Allowed", "route"),
        ("GET", "/other/nothing", b"", 404, "GET /other/nothing: Not Found", "route"),
    ],
)
async def test_errors_below_its_prefix_have_its_shape(
    backend: FakeModel, method: str, path: str, body: bytes, status: int, sentence: str, code: str
) -> None:
    async with serving_both(backend, max_text_chars=3) as client:
        answer = await client.request(method, path, content=body)

    error = answer.json()["error"]
    assert answer.status_code == status
    assert sentence in error["message"]
    assert error["code"].startswith(code)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/vectorize", "/nothing", "/otherwise"])
async def test_errors_elsewhere_keep_theirs(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)

    assert isinstance(answer.json()["error"], str)


async def test_a_model_that_cannot_be_cut_is_reported_in_its_shape() -> None:
    async with serving_both(FakeModel()) as client:
        answer = await client.post(PATH, json={"input": "a", "dimensions": 2})

    assert_other_shape(answer, 400, "cannot be cut", "body")


async def test_what_keeps_the_service_from_answering_has_its_shape_too(
    backend: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    async with serving_both(backend, request_timeout_s=0.1, max_queue_items=1) as client:
        late = await client.post(PATH, content=slow())
        backend.gate.clear()
        waiting = asyncio.create_task(client.post(PATH, json={"input": "first"}))
        await asyncio.to_thread(backend.busy.wait, 10)
        crowded = await client.post(PATH, json={"input": "second"})
        not_in_time = await waiting
        backend.gate.set()
        monkeypatch.setattr(Vectorizer, "embed", fail)
        bug = await client.post(PATH, json={"input": "a"})
    async with serving_both(backend, authentication_allowed_tokens="a") as client:
        stranger = await client.post(PATH, json={"input": "a"})

    assert_other_shape(late, 408, "the body took over", "slow_body")
    assert_other_shape(crowded, 429, "overloaded", "overload")
    assert_other_shape(not_in_time, 504, "not answered within", "timeout")
    assert_other_shape(bug, 500, "internal error", "bug")
    assert_other_shape(stranger, 401, "send a token", "token")
    assert int(crowded.headers["retry-after"]) >= 1
    assert "www-authenticate" in stranger.headers


async def test_it_is_described_as_it_describes_itself(client: httpx.AsyncClient) -> None:
    description = (await client.get("/openapi.json")).json()
    operation = description["paths"][PATH]["post"]
    schema = schemathesis.openapi.from_dict(description)
    (example,) = operation["requestBody"]["content"]["application/json"]["schema"]["examples"]

    assert "400" in operation["responses"]
    assert "422" not in operation["responses"]
    assert "422" in description["paths"]["/vectorize"]["post"]["responses"]
    for body in (example, {"input": 1}):
        schema[PATH]["POST"].validate_response(await client.post(PATH, json=body))
    assert f"POST {PATH}" in (await client.get("/")).json()["routes"]

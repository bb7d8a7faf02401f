"""The service against its own description: every answer is one that it announces."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import jsonschema_rs
import pytest
import schemathesis
from hypothesis import given, settings
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from errors import DeviceLostError
from tests.asgi import serving
from tests.fakes import FakeModel
from tests.golden_cases import GOLDEN
from tests.service import ROOT, running
from web.endpoints import ENDPOINTS

Operation: TypeAlias = APIOperation[Any, Any, Any, Any]
AnyCase: TypeAlias = Case[Any]

INTERFACES = [one.paths[0] for one in ENDPOINTS if not one.scores]
PATHS = [
    *INTERFACES,
    *("/v1/models", "/v1/models/{model}", "/meta", "/metrics", "/"),
    *("/api/tags", "/api/version", "/info"),
    *("/.well-known/live", "/.well-known/ready", "/health"),
]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("openapi") / "log"
    with running(log, MODELS_DIR=GOLDEN / "openai") as service:
        yield f"http://127.0.0.1:{service.port}/openapi.json"


@pytest.fixture(scope="module")
def live_description(address: str) -> BaseSchema:
    return schemathesis.openapi.from_url(address)


def check_all(operation: Operation, mode: GenerationMode, examples: int = 150) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True)
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: AnyCase) -> None:
        case.call_and_validate(checks=CHECKS)

    check()


def test_every_answer_is_one_that_the_description_announces(live_description: BaseSchema) -> None:
    for path in PATHS:
        for operation in live_description[path].values():
            check_all(operation, GenerationMode.POSITIVE)


@pytest.mark.parametrize("path", INTERFACES)
def test_so_is_the_answer_to_what_the_description_forbids(
    live_description: BaseSchema, path: str
) -> None:
    check_all(live_description[path]["POST"], GenerationMode.NEGATIVE)


def test_every_operation_of_the_description_was_tried(live_description: BaseSchema) -> None:
    assert {path for path, _ in live_description.items()} == set(PATHS)


def test_schemathesis_finds_nothing_as_people_run_it(address: str) -> None:
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", address]
    options = ["--seed", "1", "--max-examples", "40", "--no-color"]
    run = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert run.returncode == 0, run.stdout
    assert "No issues found" in run.stdout


async def refused(
    settings: dict[str, Any], path: str = "/vectorize", **request: Any
) -> httpx.Response:
    method = "POST" if request else "GET"
    async with serving(FakeModel(), **settings) as client:
        return await client.request(method, path, **request)


async def late() -> httpx.Response:
    backend = FakeModel()
    backend.gate.clear()
    async with serving(backend, request_timeout_s=0.1) as client:
        answer = await client.post("/vectorize", json={"texts": ["a"]})
        backend.gate.set()
    return answer


async def crowded() -> httpx.Response:
    backend = FakeModel()
    backend.gate.clear()
    async with serving(backend, max_queue_items=1) as client:
        first = asyncio.create_task(client.post("/vectorize", json={"texts": ["a"]}))
        await asyncio.to_thread(backend.busy.wait, 10)
        answer = await client.post("/vectorize", json={"texts": ["b"]})
        backend.gate.set()
        await first
    return answer


async def slow() -> httpx.Response:
    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    return await refused({"request_timeout_s": 0.1}, content=body())


class Lost(FakeModel):
    def encode_text(self, texts: object) -> Any:
        raise DeviceLostError("gone")


async def lost(path: str) -> httpx.Response:
    async with serving(Lost()) as client:
        first = await client.post("/vectorize", json={"texts": ["a"]})
        if path == "first":
            return first
        return await client.request("POST" if path == "/vectorize" else "GET", path, json={})


@pytest.mark.anyio
@pytest.mark.parametrize("status", [401, 408, 413, 422, 429, 500, 503, 504])
async def test_each_refusal_of_vectorize_is_described(status: int) -> None:
    tokens = {"authentication_allowed_tokens": "a"}
    refusals = {
        401: lambda: refused(tokens, json={}),
        408: slow,
        413: lambda: refused({"max_request_items": 1}, json={"texts": ["a", "b"]}),
        422: lambda: refused({}, json={"texts": 1}),
        429: crowded,
        500: lambda: lost("first"),
        503: lambda: lost("/vectorize"),
        504: late,
    }
    await assert_described(await refusals[status](), "/vectorize", status)


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/meta", "/metrics", "/", "/api/tags", "/api/version", "/info"])
async def test_each_route_behind_a_token_is_described(path: str) -> None:
    answer = await refused({"authentication_allowed_tokens": "a"}, path)
    await assert_described(answer, path, 401)


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/.well-known/live", "/.well-known/ready"])
async def test_a_probe_that_fails_is_described(path: str) -> None:
    await assert_described(await lost(path), path, 503)


async def assert_described(answer: httpx.Response, path: str, status: int) -> None:
    async with serving(FakeModel()) as client:
        schema = schemathesis.openapi.from_dict((await client.get("/openapi.json")).json())
    method = answer.request.method
    described = schema[path][method].definition.raw["responses"][str(status)]

    assert answer.status_code == status
    assert isinstance(answer.json()["error"], str)
    assert list(described["content"]) == [answer.headers["content-type"]]
    assert {name for name in described["headers"] if name not in answer.headers} == set()
    answer.request = httpx.Request(method, answer.request.url)  # its body may have been a stream
    schema[path][method].validate_response(answer)


@pytest.mark.anyio
@pytest.mark.parametrize("is_asked", [False, True])
async def test_how_a_token_is_brought_is_described(is_asked: bool) -> None:
    tokens = "a" if is_asked else ""
    async with serving(FakeModel(), authentication_allowed_tokens=tokens) as client:
        described = (await client.get("/openapi.json", auth=("any", "a"))).json()

    schemes = described["components"]["securitySchemes"]
    assert {name: one["scheme"] for name, one in schemes.items()} == {
        "bearer": "bearer",
        "basic": "basic",
    }
    ways: list[dict[str, list[str]]] = [{"bearer": []}, {"basic": []}]
    assert described["security"] == (ways if is_asked else [{}, *ways])
    is_open = {
        path
        for path, operations in described["paths"].items()
        if all(one.get("security") == [] for one in operations.values())
    }
    assert is_open == {"/.well-known/live", "/.well-known/ready", "/health"}


@pytest.mark.anyio
async def test_each_status_has_an_example_of_its_own_in_the_shape_of_its_interface() -> None:
    async with serving(FakeModel()) as client:
        described = (await client.get("/openapi.json")).json()

    schemas = described["components"]["schemas"]
    for path, operation in (
        (path, one) for path, all_of in described["paths"].items() for one in all_of.values()
    ):
        examples = {
            status: [one["value"] for one in content["examples"].values()]
            for status, answer in operation["responses"].items()
            if int(status) >= 400 and (content := answer["content"]["application/json"])
        }
        told = [str(one) for several in examples.values() for one in several]
        assert len(told) == len(set(told)), path
        for status, several in examples.items():
            content = operation["responses"][status]["content"]["application/json"]
            schema = {**content["schema"], "components": {"schemas": schemas}}
            for one in several:
                jsonschema_rs.validate(schema, one)

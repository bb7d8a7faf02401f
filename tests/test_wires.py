"""All wires of one service: the same vectors, turns, limits and tokens, each in its own form."""

import asyncio
import itertools
import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from typing_extensions import override

from backends.model import Model
from tests.asgi import serving
from tests.fakes import FakeModel
from tests.golden_cases import golden_model
from tests.golden_texts import text_model
from web.endpoints import ENDPOINTS

pytestmark = pytest.mark.anyio


class Wire(NamedTuple):
    """How texts are sent on a path, and where their vectors are in the answer."""

    path: str
    body: Callable[[list[str]], dict[str, Any]]
    vectors: Callable[[Any], list[list[float]]]
    has_unit_length: bool = False


WIRES = [
    Wire("/vectorize", lambda texts: {"texts": texts}, lambda answer: answer["textVectors"]),
    Wire("/vectors", lambda texts: {"text": texts[0]}, lambda answer: [answer["vector"]]),
    Wire("/vectors", lambda texts: {"texts": texts}, lambda answer: answer["vectors"]),
    Wire(
        "/v1/embeddings",
        lambda texts: {"input": texts},
        lambda answer: [one["embedding"] for one in answer["data"]],
        has_unit_length=True,
    ),
    Wire(
        "/api/embed",
        lambda texts: {"input": texts},
        lambda answer: answer["embeddings"],
        has_unit_length=True,
    ),
    Wire(
        "/api/embeddings", lambda texts: {"prompt": texts[0]}, lambda answer: [answer["embedding"]]
    ),
    Wire("/embed", lambda texts: {"inputs": texts}, lambda answer: answer, has_unit_length=True),
    Wire("/", lambda texts: {"inputs": texts}, lambda answer: answer, has_unit_length=True),
]
EVERY_WIRE = pytest.mark.parametrize("wire", WIRES, ids=[one.path for one in WIRES])
OF_LISTS = [one for one in WIRES if one.body(["a", "b"]) != one.body(["a"])]
EVERY_LIST = pytest.mark.parametrize("wire", OF_LISTS, ids=[one.path for one in OF_LISTS])
# They say no task: one text is a search.
WITHOUT_TASK = [one for one in WIRES if one.path in {"/api/embed", "/embed", "/"}]

TEXTS = ["How do I make bread?", "Flour, water, salt. Then wait; a day is best.", "a"]


class Loaded(FakeModel):
    """A model that is none of the fakes."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = model

    @property
    @override
    def model(self) -> Model:
        return self._model


def test_every_wire_is_tried() -> None:
    paths = {path for one in ENDPOINTS if not one.scores for path in one.paths}

    assert {one.path for one in WIRES} == paths


async def vectors_of(client: httpx.AsyncClient, text: str) -> dict[int, np.ndarray]:
    vectors = {}
    for place, wire in enumerate(WIRES):
        answer = await client.post(wire.path, json=wire.body([text]))
        assert answer.status_code == 200, answer.text
        (vector,) = wire.vectors(answer.json())
        vectors[place] = np.array(vector)
    return vectors


@pytest.mark.models
@pytest.mark.parametrize(
    "name",
    [
        *("bert", "prefixes", "dpr_context", "model2vec", "onnx", "sentence_transformers"),
        *("sentence_transformers_prefixes", "sentence_transformers_qwen3", "openai", "siglip"),
    ],
)
async def test_every_wire_gives_the_same_direction(name: str) -> None:
    model = golden_model(name, "trained") if name in {"openai", "siglip"} else text_model(name)
    async with serving(Loaded(model)) as client:
        for text in TEXTS:
            vectors = await vectors_of(client, text)
            unit = {place: one / np.linalg.norm(one) for place, one in vectors.items()}
            for one, other in itertools.combinations(unit, 2):
                cosine = float(unit[one] @ unit[other])
                assert cosine >= 0.99999, (WIRES[one].path, WIRES[other].path, cosine)
            for place, vector in vectors.items():
                given = 1 if WIRES[place].has_unit_length else np.linalg.norm(vectors[0])
                assert np.linalg.norm(vector) == pytest.approx(given, rel=1e-5)


@pytest.mark.models
async def test_one_text_of_a_model_with_prompts_has_the_prompt_of_a_passage() -> None:
    async with serving(Loaded(text_model("sentence_transformers_qwen3"))) as client:
        by_task = {
            task: (
                await client.post("/vectors", json={"text": "bread", "config": {"task_type": task}})
            ).json()["vector"]
            for task in ("query", "passage")
        }
        for wire in WITHOUT_TASK:
            (vector,) = wire.vectors(
                (await client.post(wire.path, json=wire.body(["bread"]))).json()
            )
            assert np.dot(vector, by_task["passage"]) == pytest.approx(1, abs=1e-5)
            assert np.dot(vector, by_task["query"]) < 0.9999
        named = await client.post("/embed", json={"inputs": "bread", "prompt_name": "query"})
        assert np.dot(named.json()[0], by_task["query"]) == pytest.approx(1, abs=1e-5)


@EVERY_LIST
async def test_a_list_comes_back_in_its_order(wire: Wire) -> None:
    texts = ["b", "a", "c", "a"]
    async with serving(FakeModel()) as client:
        together = wire.vectors((await client.post(wire.path, json=wire.body(texts))).json())
        alone = [
            wire.vectors((await client.post(wire.path, json=wire.body([text]))).json())[0]
            for text in texts
        ]

    assert together == alone


@pytest.mark.parametrize("wire", WITHOUT_TASK, ids=[one.path for one in WITHOUT_TASK])
async def test_one_text_goes_before_imports(wire: Wire) -> None:
    backend = FakeModel()
    backend.gate.clear()
    async with serving(backend, max_batch_size=4) as client:

        async def ask(*texts: str) -> None:
            answer = await client.post(wire.path, json=wire.body(list(texts)))
            assert answer.status_code == 200

        asked = [asyncio.create_task(ask("first", "second"))]
        await asyncio.to_thread(backend.busy.wait, 10)
        asked += [asyncio.create_task(ask(f"one {i}", f"other {i}")) for i in range(20)]
        await asyncio.sleep(0.1)
        asked.append(asyncio.create_task(ask("search")))
        await asyncio.sleep(0.1)
        backend.gate.set()
        await asyncio.gather(*asked)

    (batch,) = [place for place, texts in enumerate(backend.text_batches) if "search" in texts]
    assert batch <= 2, backend.text_batches


def shape_of(wire: Wire) -> set[str]:
    """The fields of an error, with those of what lies in `error`."""
    if wire.path == "/v1/embeddings":
        return {"error", "message", "type", "param", "code"}
    return {"error", "error_type"} if wire.path in {"/embed", "/"} else {"error"}


def assert_error(wire: Wire, answer: httpx.Response, status: int, sentence: str) -> None:
    content = answer.json()
    inner = content["error"] if isinstance(content["error"], dict) else {}
    reported = inner.get("message", content["error"])
    assert answer.status_code == status
    assert sentence in reported
    assert {*content, *inner} == shape_of(wire)


@EVERY_WIRE
async def test_each_wire_words_errors_as_its_clients_read_them(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    invalid = 400 if wire.path.startswith(("/v1/", "/api/")) else 422
    async with serving(FakeModel(), max_text_chars=3) as client:
        no_json = await client.post(wire.path, content=b"{")
        too_long = await client.post(wire.path, json=wire.body(["long"]))
        encoded = await client.post(wire.path, content=b"", headers={"content-encoding": "gzip"})
    async with serving(FakeModel(), authentication_allowed_tokens="token") as client:
        stranger = await client.post(wire.path, json=wire.body(["a"]))
        known = await client.post(wire.path, json=wire.body(["a"]), auth=("any", "token"))

    assert_error(wire, no_json, invalid, "the request body: invalid JSON")
    assert_error(wire, too_long, 413, "4 characters")
    assert_error(wire, encoded, 415, "")
    assert_error(wire, stranger, 401, "send a token")
    assert known.status_code == 200


@EVERY_LIST
async def test_the_limit_of_vectorize_holds_for_every_list(wire: Wire) -> None:
    most = 2048 if wire.path == "/v1/embeddings" else 2
    texts = [str(i) for i in range(most + 1)]
    async with serving(FakeModel(), max_request_items=2) as client:
        fits = await client.post(wire.path, json=wire.body(texts[:most]))
        answer = await client.post(wire.path, json=wire.body(texts))

    assert fits.status_code == 200
    assert_error(wire, answer, 413, f"{most + 1} texts and images; at most {most} are allowed")


@EVERY_WIRE
async def test_answers_are_counted_and_timed(wire: Wire) -> None:
    counted = {path: one.paths[0] for one in ENDPOINTS for path in one.paths}[wire.path]
    async with serving(FakeModel()) as client:
        answer = await client.post(wire.path, json=wire.body(["a" * 1000]))
        metrics = (await client.get("/metrics")).text

    assert "total;dur=" in answer.headers["server-timing"]
    assert answer.headers["x-truncated"] == "0"
    assert f'inference_requests_total{{code="200",endpoint="{counted}"}} 1.0' in metrics


async def test_the_root_stays_the_page_and_its_visits_are_not_counted() -> None:
    async with serving(FakeModel()) as client:
        page = await client.get("/", headers={"accept": "text/html"})
        routes = await client.get("/")
        head = await client.head("/")
        other = await client.put("/")
        metrics = (await client.get("/metrics")).text

    assert page.text.startswith("<!doctype html>")
    assert {"GET /", "POST /", "POST /embed"} <= routes.json()["routes"].keys()
    assert (head.status_code, head.content) == (200, b"")
    assert (other.status_code, other.headers["allow"]) == (405, "GET, POST")
    assert 'code="200",endpoint="/embed"' not in metrics


@pytest.mark.parametrize("path", ["/", "//", "/embed/", "//embed", "/api/embed/", "//api//embed"])
async def test_no_address_is_redirected(path: str) -> None:
    async with serving(FakeModel()) as client:
        answer = await client.post(path, json={"inputs": ["a"], "input": ["a"]})

    assert answer.status_code == 200


@EVERY_WIRE
async def test_a_vector_of_nothing_is_no_fault_of_json(wire: Wire) -> None:
    """A text without a word has the vector 0 in model2vec: it has no length to be scaled to."""
    async with serving(Loaded(text_model("model2vec"))) as client:
        answer = await client.post(wire.path, json=wire.body([" "]))

    (vector,) = wire.vectors(json.loads(answer.content))
    assert all(math.isfinite(number) for number in vector)


@pytest.mark.parametrize("level", ["debug", "info"])
async def test_a_token_in_the_address_lets_in_and_is_shown_by_nobody(
    level: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Weaviate's `text2vec-ollama` sends no token but what the address has, as HTTP Basic."""
    caplog.set_level(level.upper())
    token = "s3cret-T0ken"
    sent = httpx.BasicAuth("any", token)  # what a client makes of an address with both
    basic = next(sent.auth_flow(httpx.Request("GET", "http://test"))).headers["authorization"]
    shown = []
    async with serving(FakeModel(), authentication_allowed_tokens=token) as client:
        client.auth = sent
        for wire in WIRES:
            fine = await client.post(wire.path, json=wire.body(["a"]))
            no_json = await client.post(wire.path, content=b"{")
            shown += [fine, no_json, await client.put(wire.path)]
            assert fine.status_code == 200
        for path in ("/api/tags", "/api/version", "/info", "/metrics", "/meta", "/api/none"):
            shown.append(await client.get(path))
    async with serving(FakeModel(), authentication_allowed_tokens="another") as client:
        client.auth = sent
        for wire in WIRES:
            shown.append(await client.post(wire.path, json={}))
            assert shown[-1].status_code == 401

    reported = [caplog.text, *(f"{answer.headers}{answer.text}" for answer in shown)]
    for secret in (token, basic.removeprefix("Basic ")):
        assert not [text for text in reported if secret in text]

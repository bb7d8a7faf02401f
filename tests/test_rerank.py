"""`POST /rerank` as Weaviate asks it, on a reranker whose scores are functions of its pairs."""

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest

from backends.model import Activation
from backends.scores import ACTIVATIONS
from tests.asgi import serving
from tests.fake_reranker import FakeReranker, logit_of
from tests.fakes import FakeModel

pytestmark = pytest.mark.anyio


@pytest.fixture
def backend() -> FakeReranker:
    return FakeReranker()


async def test_scores_come_in_the_order_of_the_documents(client: httpx.AsyncClient) -> None:
    documents = [f"document {i}" for i in range(100)] + ["", "document 7"]
    # Weaviate sends no Content-Type, and an empty property.
    asked = json.dumps({"query": "q", "documents": documents, "property": ""}).encode()
    answer = await client.post("/rerank", content=asked)

    assert answer.status_code == 200
    assert answer.json() == {
        "query": "q",
        "scores": [
            {"document": text, "score": pytest.approx(float(logit_of("q", text)))}
            for text in documents
        ],
        "property": None,
        "score": None,
    }


@pytest.mark.parametrize("activation", ["identity", "sigmoid"])
async def test_a_score_is_what_the_activation_makes_of_the_logit(activation: Activation) -> None:
    async with serving(FakeReranker(activation)) as client:
        answer = await client.post("/rerank", json={"query": "q", "documents": ["d"]})

    (expected,) = ACTIVATIONS[activation](np.array([logit_of("q", "d")]))
    (score,) = answer.json()["scores"]
    assert np.float32(score["score"]) == expected


@pytest.mark.parametrize("text", ["a document", ""])
@pytest.mark.parametrize("more", [{}, {"documents": None}])
async def test_the_old_form_has_one_document_as_a_property(
    client: httpx.AsyncClient, text: str, more: dict[str, None]
) -> None:
    answer = await client.post("/rerank", json={"query": "q", "property": text, **more})

    expected = pytest.approx(float(logit_of("q", text)))
    assert answer.json() == {"query": "q", "scores": None, "property": text, "score": expected}


async def test_no_documents_have_no_scores(
    client: httpx.AsyncClient, backend: FakeReranker
) -> None:
    answer = await client.post("/rerank", json={"query": "q", "documents": [], "property": "p"})

    assert answer.status_code == 200
    assert answer.json() == {"query": "q", "scores": [], "property": None, "score": None}
    assert backend.batches == []


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"query": "q"}', 'expected "documents" beside the "query", or a "property"'),
        (b'{"query": "q", "documents": null, "property": null}', 'expected "documents" beside'),
        (b'{"documents": ["d"]}', "missing required field `query`"),
        (b'{"query": null, "documents": ["d"]}', "query: Expected `str`, got `null`"),
        (b'{"query": NaN, "documents": ["d"]}', "query: Expected `str`, got"),
        (b'{"query": "q", "documents": "d"}', "documents: Expected `array | null`, got `str`"),
        (b'{"query": "q", "documents": ["d", 5]}', "documents[1]: Expected `str`, got `int`"),
        (b'{"query": "q", "documents": [{"text": "d"}]}', "documents[0]: Expected `str`"),
        (b'{"query": "q", "documents": ["d", "\\ud800"]}', "documents[1]: not valid Unicode"),
        (b'{"query": "\\ud800", "documents": ["d"]}', "query: not valid Unicode"),
        (b'{"query": "q", "docu', "invalid JSON"),
        (b"", "invalid JSON"),
        (b"[]", "Expected `object`, got `array`"),
    ],
)
async def test_what_is_no_request_is_named(
    client: httpx.AsyncClient, body: bytes, sentence: str
) -> None:
    answer = await client.post("/rerank", content=body)

    assert answer.status_code == 422
    assert answer.json().keys() == {"error"}
    assert sentence in answer.json()["error"]


async def test_there_is_a_limit_of_documents() -> None:
    async with serving(FakeReranker()) as client:
        most = await client.post("/rerank", json={"query": "q", "documents": ["d"] * 1000})
        more = await client.post("/rerank", json={"query": "q", "documents": ["d"] * 1001})

    assert len(most.json()["scores"]) == 1000
    assert more.status_code == 413
    sentence = "1001 documents; at most 1000 are allowed in one request"
    assert more.json() == {"error": sentence}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"query": "q", "documents": ["d", "d" * 11]}, "documents[1]: the document has 11 char"),
        ({"query": "q" * 12, "documents": ["d"]}, "documents[0]: the query has 12 characters; at"),
        ({"query": "q", "property": "d" * 13}, "property: the document has 13 characters; at most"),
    ],
)
async def test_a_text_that_is_too_long_is_named(body: dict[str, Any], sentence: str) -> None:
    async with serving(FakeReranker(), max_text_chars=10) as client:
        answer = await client.post("/rerank", json=body)

    assert answer.status_code == 413
    assert sentence in answer.json()["error"]


async def test_documents_that_are_cut_are_named_by_their_places(client: httpx.AsyncClient) -> None:
    documents = ["a", "b" * 51, "c", "d" * 52, "e" * 53]
    answers = [
        await client.post("/rerank", json={"query": "q", "documents": documents}) for _ in range(2)
    ]
    whole = await client.post("/rerank", json={"query": "q", "documents": documents[:1]})

    assert [answer.headers["x-truncated"] for answer in answers] == ["1,3-4"] * 2
    assert "x-truncated" not in whole.headers
    assert "encode;dur=" in answers[0].headers["server-timing"]


async def test_an_equal_pair_is_computed_once(
    client: httpx.AsyncClient, backend: FakeReranker
) -> None:
    asked = [("ab", ["c", "c", "d"]), ("a", ["bc"]), ("ab", ["c"])]
    for query, documents in asked:
        await client.post("/rerank", json={"query": query, "documents": documents})

    computed = [tuple(pair) for batch in backend.batches for pair in batch]
    assert sorted(computed) == [("a", "bc"), ("ab", "c"), ("ab", "d")]
    cache = (await client.get("/meta")).json()["service"]["cache"]
    assert (cache["hits"], cache["misses"]) == (1, 3)


async def test_requests_share_batches(client: httpx.AsyncClient, backend: FakeReranker) -> None:
    backend.gate.clear()
    requests = [
        asyncio.create_task(client.post("/rerank", json={"query": f"{i}", "documents": ["d"]}))
        for i in range(9)
    ]
    await asyncio.to_thread(backend.busy.wait, 10)
    await asyncio.sleep(0.2)  # so that all have come
    backend.gate.set()
    answers = await asyncio.gather(*requests)

    assert [answer.status_code for answer in answers] == [200] * 9
    assert sum(map(len, backend.batches)) == 9
    assert len(backend.batches) <= 2
    counted = (await client.get("/metrics")).text
    assert 'inference_requests_total{code="200",endpoint="/rerank"} 9.0' in counted
    assert 'inference_items_total{modality="pair"} 9.0' in counted


@pytest.mark.parametrize(
    ("path", "status", "bodies"),
    [
        ("/vectorize", 422, [{"texts": ["a"]}, {}]),
        ("/vectors", 422, [{"text": "a"}]),
        ("/v1/embeddings", 400, [{"input": "a"}]),
    ],
)
async def test_a_reranker_makes_no_vectors(
    client: httpx.AsyncClient, path: str, status: int, bodies: Sequence[dict[str, Any]]
) -> None:
    sentence = (
        "this model (fake) is a reranker: it scores documents by POST /rerank, and makes no vectors"
    )
    for body in bodies:
        answer = await client.post(path, json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error if status == 422 else error["message"]) == (
            status,
            sentence,
        )


@pytest.mark.parametrize("documents", [["d"], []])
async def test_an_embedder_scores_nothing(documents: list[str]) -> None:
    async with serving(FakeModel()) as client:
        answer = await client.post("/rerank", json={"query": "q", "documents": documents})

    assert answer.status_code == 422
    sentence = "this model (fake) makes vectors, and scores no documents: ask a reranker"
    assert answer.json() == {"error": sentence}


async def test_meta_tells_the_space_of_scores(client: httpx.AsyncClient) -> None:
    of_reranker = (await client.get("/meta")).json()["service"]
    async with serving(FakeModel()) as other:
        of_embedder = (await other.get("/meta")).json()["service"]

    assert (of_reranker["score_space"], of_reranker["vector_space"]) == ("space", None)
    assert of_reranker["modalities"] == ["pair"]
    assert (of_embedder["score_space"], of_embedder["vector_space"]) == (None, "")


async def test_all_that_the_description_refers_to_is_in_it(client: httpx.AsyncClient) -> None:
    answer = await client.get("/openapi.json")
    known = answer.json()["components"]["schemas"]

    named = set(re.findall(r"#/components/schemas/(\w+)", answer.text))
    of_wires = {"RerankRequest", "RerankTextsRequest", "CohereRequest", "NvidiaFault"}
    assert {"DocumentScore", "OpenAIErrorResponse", *of_wires} <= named <= known.keys()

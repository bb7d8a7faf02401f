"""All wires of one reranker: the same order, limits, tokens and faults, each in its own form."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from typing_extensions import override

from backends.scores import sigmoid
from tests.asgi import serving
from tests.fake_reranker import FakeReranker, logit_of
from tests.fakes import FakeModel
from tests.golden_rerankers import reranker
from tests.test_wires import Loaded
from web.endpoints import ENDPOINTS

pytestmark = pytest.mark.anyio

Body = dict[str, Any]


class Wire(NamedTuple):
    """How documents are sent on a path, and how they are answered.

    Attributes:
        name: of the wire.
        path: where it is asked.
        body: of a request.
        field: that holds the documents.
        scores: of an answer, in its order: the places of documents, and their numbers.
        is_raw: whether these are logits, and not from 0 to 1.
        sentence: of an error; it asserts the error's shape.
    """

    name: str
    path: str
    body: Callable[[str, Sequence[Any]], Body]
    field: str
    scores: Callable[[Any], list[tuple[int, float]]]
    is_raw: bool
    sentence: Callable[[Any], str]


def of_weaviate(answer: Any) -> list[tuple[int, float]]:
    return [(place, one["score"]) for place, one in enumerate(answer["scores"])]


def of_cohere(answer: Any) -> list[tuple[int, float]]:
    return [(one["index"], one["relevance_score"]) for one in answer["results"]]


def of_texts(answer: Any) -> list[tuple[int, float]]:
    return [(one["index"], one["score"]) for one in answer]


def of_nvidia(answer: Any) -> list[tuple[int, float]]:
    return [(one["index"], one["logit"]) for one in answer["rankings"]]


def under(*names: str) -> Callable[[Any], str]:
    """Return the sentence of an error that has these fields, the sentence in the first."""

    def sentence(content: Any) -> str:
        assert content.keys() == set(names)
        told = content[names[0]]
        assert isinstance(told, str)
        return told

    return sentence


def in_detail(content: Any) -> str:
    assert content.keys() == {"detail"}
    detail = content["detail"]
    if isinstance(detail, str):
        return detail
    (fault,) = detail
    assert fault.keys() == {"loc", "msg", "type"}
    assert fault["loc"][0] == "body"
    return str(fault["msg"])


def nvidia_body(query: str, documents: Sequence[Any]) -> Body:
    passages = [{"text": one} if isinstance(one, str) else one for one in documents]
    return {"model": "any", "query": {"text": query}, "passages": passages}


def cohere_body(query: str, documents: Sequence[Any]) -> Body:
    return {"model": "any", "query": query, "documents": list(documents)}


def weaviate_body(query: str, documents: Sequence[Any]) -> Body:
    return {"query": query, "documents": list(documents), "property": ""}


def texts_body(query: str, documents: Sequence[Any]) -> Body:
    return {"query": query, "texts": list(documents), "truncate": True}


WEAVIATE = Wire(
    "Weaviate", "/rerank", weaviate_body, "documents", of_weaviate, True, under("error")
)
OF_COHERE = [
    Wire("Cohere", path, cohere_body, "documents", of_cohere, False, under("message"))
    for path in ("/v1/rerank", "/v2/rerank", "/rerank")
]
TEXTS = Wire("TEI", "/rerank", texts_body, "texts", of_texts, False, under("error", "error_type"))
OF_NVIDIA = [
    Wire("NVIDIA", path, nvidia_body, "passages", of_nvidia, True, in_detail)
    for path in ("/v1/ranking", "/v1/retrieval/nvidia/reranking")
]
WIRES = [WEAVIATE, *OF_COHERE, TEXTS, *OF_NVIDIA]


def every(wires: Sequence[Wire]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("wire", wires, ids=[f"{one.name} {one.path}" for one in wires])


@pytest.fixture
def backend() -> FakeReranker:
    return FakeReranker()


def test_every_wire_is_tried() -> None:
    assert {one.path for one in WIRES} == {
        path for one in ENDPOINTS if one.scores for path in one.paths
    }


def score_of(wire: Wire, query: str, document: str) -> float:
    logit = logit_of(query, document)
    return float(logit if wire.is_raw else sigmoid(np.array([logit]))[0])


@every(WIRES)
async def test_all_documents_have_their_scores_the_best_first(
    client: httpx.AsyncClient, wire: Wire
) -> None:
    documents = [f"document {i}" for i in range(100)] + ["", "document 7"]
    answer = await client.post(wire.path, json=wire.body("q", documents))

    assert answer.status_code == 200, answer.text
    given = wire.scores(answer.json())
    expected = dict(enumerate(score_of(wire, "q", text) for text in documents))
    assert dict(given) == pytest.approx(expected)
    if wire is not WEAVIATE:  # which reads them by their position
        best = sorted(expected, key=lambda place: -logit_of("q", documents[place]))
        assert [place for place, _ in given] == best


@every(WIRES[1:])
async def test_documents_of_equal_logits_stay_in_their_order(
    client: httpx.AsyncClient, wire: Wire
) -> None:
    answer = await client.post(wire.path, json=wire.body("q", ["same"] * 20))

    assert [place for place, _ in wire.scores(answer.json())] == list(range(20))


class FarReranker(FakeReranker):
    """Its logits are so large that their scores from 0 to 1 are equal."""

    @override
    def score_of(self, query: str, document: str) -> np.float32:
        return np.float32(40 + len(document))


@every(WIRES[1:])
async def test_the_order_is_that_of_logits_where_scores_are_equal(wire: Wire) -> None:
    async with serving(FarReranker()) as client:
        answer = await client.post(wire.path, json=wire.body("q", ["", "aa", "a"]))

    assert [place for place, _ in wire.scores(answer.json())] == [1, 2, 0]


@every(WIRES)
@pytest.mark.parametrize("activation", ["identity", "sigmoid"])
async def test_the_activation_of_the_model_shapes_the_answers_of_weaviate_alone(
    wire: Wire, activation: Any
) -> None:
    async with serving(FakeReranker(activation)) as client:
        answer = await client.post(wire.path, json=wire.body("q", ["d"]))

    ((_, score),) = wire.scores(answer.json())
    is_raw = activation == "identity" if wire is WEAVIATE else wire.is_raw
    assert score == pytest.approx(score_of(wire._replace(is_raw=is_raw), "q", "d"))


@every(OF_COHERE)
@pytest.mark.parametrize(
    ("options", "count"),
    [({}, 3), ({"top_n": None}, 3), ({"top_n": 1}, 1), ({"top_n": 3}, 3), ({"top_n": 100}, 3)],
)
async def test_top_n_keeps_the_best(
    client: httpx.AsyncClient, wire: Wire, options: Body, count: int
) -> None:
    body = {**wire.body("q", ["a", "b", "c"]), **options}
    answer = await client.post(wire.path, json=body)

    whole = await client.post(wire.path, json=wire.body("q", ["a", "b", "c"]))
    assert wire.scores(answer.json()) == wire.scores(whole.json())[:count]


@every(OF_COHERE)
@pytest.mark.parametrize("wanted", [True, False, None])
async def test_documents_come_back_where_they_are_wanted(
    client: httpx.AsyncClient, wire: Wire, wanted: bool | None
) -> None:
    documents = ["a", {"text": "b", "title": "any"}, {"text": ""}]
    body = {**wire.body("q", documents), "return_documents": wanted}
    answer = (await client.post(wire.path, json=body)).json()

    texts = ["a", "b", ""]
    for one in answer["results"]:
        assert ("document" in one) == bool(wanted)
        if wanted:
            assert one["document"] == {"text": texts[one["index"]]}


@every(OF_COHERE)
async def test_an_answer_of_cohere_has_what_its_clients_read(
    client: httpx.AsyncClient, wire: Wire
) -> None:
    body = {**wire.body("q", ["a"]), "model": "of mine"}
    answers = [(await client.post(wire.path, json=body)).json() for _ in range(2)]
    del body["model"]
    unnamed = (await client.post(wire.path, json={**body, "top_n": 1})).json()

    first, second = answers
    assert first.keys() == {"id", "model", "results", "meta", "usage"}
    assert first["model"] == "of mine"
    assert unnamed["model"] == "fake/model"
    assert first["id"] != second["id"]
    assert first["meta"]["api_version"] == {"version": "2"}
    assert first["usage"]["total_tokens"] == first["meta"]["tokens"]["input_tokens"]


UNKNOWN: list[Mapping[str, Any]] = [
    {"max_tokens_per_doc": None, "rank_fields": ["text"], "priority": 0},
    {"max_chunks_per_doc": 10, "truncation": True, "return_embeddings": False},
    {"user": {"name": ["any"]}, "metadata": [1, None]},
]


@every(WIRES)
@pytest.mark.parametrize("more", UNKNOWN)
async def test_unknown_fields_mean_nothing(
    client: httpx.AsyncClient, wire: Wire, more: Mapping[str, Any]
) -> None:
    known = await client.post(wire.path, json=wire.body("q", ["a", "b"]))
    answer = await client.post(wire.path, json={**wire.body("q", ["a", "b"]), **more})

    assert answer.status_code == 200
    assert wire.scores(answer.json()) == wire.scores(known.json())


async def test_open_webui_gets_a_score_for_each_document(client: httpx.AsyncClient) -> None:
    """What its external reranker sends to the address that its settings hold, and what it reads."""
    documents = ["a", "b", "", "a"]
    for path in ("/v1/rerank", "/rerank"):
        body = {"model": "", "query": "q", "documents": documents, "top_n": len(documents)}
        answer = await client.post(path, json=body, headers={"Authorization": "Bearer "})
        results = sorted(answer.json()["results"], key=lambda one: one["index"])

        given = [one["relevance_score"] for one in results]
        expected = [score_of(OF_COHERE[0], "q", text) for text in documents]
        assert given == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "is_raw", "has_text"),
    [
        ({}, False, False),
        ({"raw_scores": False, "return_text": False, "truncate": None}, False, False),
        ({"raw_scores": None, "return_text": None}, False, False),
        ({"raw_scores": True}, True, False),
        ({"return_text": True, "truncation_direction": "Left"}, False, True),
    ],
)
async def test_options_of_texts(
    client: httpx.AsyncClient, options: Body, is_raw: bool, has_text: bool
) -> None:
    body = {"query": "q", "texts": ["a", "b"], **options}
    answer = (await client.post("/rerank", json=body)).json()

    for one in answer:
        text = ["a", "b"][one["index"]]
        expected = score_of(TEXTS._replace(is_raw=is_raw), "q", text)
        assert one["score"] == pytest.approx(expected)
        assert one.get("text") == (text if has_text else None)


LONG = "b" * 51


@pytest.mark.parametrize(
    ("wire", "options", "against"),
    [
        (TEXTS, {"truncate": False}, "`truncate: false`"),
        (TEXTS, {"truncation_direction": "Left"}, "`truncation_direction: left`"),
        *[(wire, {"truncate": "NONE"}, '`"truncate": "NONE"`') for wire in OF_NVIDIA],
    ],
)
async def test_a_document_is_cut_or_refused(
    client: httpx.AsyncClient, wire: Wire, options: Body, against: str
) -> None:
    body = wire.body("q", ["a", LONG])
    cut = await client.post(wire.path, json=body)
    refused = await client.post(wire.path, json={**body, **options})
    short = await client.post(wire.path, json={**wire.body("q", ["a"]), **options})

    assert (cut.status_code, cut.headers["x-truncated"]) == (200, "1")
    assert refused.status_code == 422
    sentence = wire.sentence(refused.json())
    assert sentence.startswith(f"{wire.field}[1]: longer than the model reads")
    assert against in sentence
    assert short.status_code == 200


@pytest.mark.parametrize(
    ("body", "answered_as"),
    [
        ({"documents": ["a"]}, WEAVIATE),
        ({"documents": ["a"], "property": "p"}, WEAVIATE),
        ({"documents": ["a"], "texts": None}, WEAVIATE),
        ({"documents": ["a"], "model": None}, WEAVIATE),
        ({"documents": ["a"], "model": ""}, OF_COHERE[0]),
        ({"documents": ["a"], "top_n": 1}, OF_COHERE[0]),
        ({"documents": ["a"], "return_documents": False}, OF_COHERE[0]),
        ({"texts": ["a"]}, TEXTS),
        ({"texts": ["a"], "documents": None}, TEXTS),
        ({"texts": ["a"], "model": "any", "top_n": 1}, TEXTS),
    ],
)
@pytest.mark.parametrize("more", ['{"a": [NaN, "documents"]}', '["texts"]'])
async def test_fields_tell_how_rerank_is_meant(
    client: httpx.AsyncClient, body: Body, answered_as: Wire, more: str
) -> None:
    content = f'{{"more": {more}, {json.dumps({"query": "q", **body})[1:]}'
    answer = await client.post("/rerank", content=content)

    assert answer.status_code == 200, answer.text
    assert [place for place, _ in answered_as.scores(answer.json())] == [0]


@pytest.mark.parametrize("more", [{}, {"model": "any"}])
async def test_texts_beside_documents_are_refused(
    client: httpx.AsyncClient, more: Mapping[str, str]
) -> None:
    body = {"query": "q", "texts": ["a"], "documents": ["a"], **more}
    answer = await client.post("/rerank", json=body)

    assert answer.status_code == 422
    sentence = 'the request body: "texts" beside "documents"; send one of them'
    assert answer.json() == {"error": sentence}


@every(WIRES)
@pytest.mark.parametrize("query", ["", " \u3000", "q"])
@pytest.mark.parametrize("documents", [[""], ["", " "], ["d", "d", ""]])
async def test_what_is_empty_is_a_text(
    client: httpx.AsyncClient, wire: Wire, query: str, documents: list[str]
) -> None:
    answer = await client.post(wire.path, json=wire.body(query, documents))

    expected = dict(enumerate(score_of(wire, query, text) for text in documents))
    assert dict(wire.scores(answer.json())) == pytest.approx(expected)


@every(WIRES)
async def test_of_no_documents_none_is_scored(
    client: httpx.AsyncClient, backend: FakeReranker, wire: Wire
) -> None:
    answer = await client.post(wire.path, json=wire.body("q", []))

    assert answer.status_code == 200
    assert wire.scores(answer.json()) == []
    assert backend.batches == []


@every(WIRES)
@pytest.mark.parametrize("wrong", [None, 5, ["a"], {}, {"title": "a"}, {"text": None}])
async def test_a_document_that_is_none_is_named(
    client: httpx.AsyncClient, wire: Wire, wrong: Any
) -> None:
    answer = await client.post(wire.path, json=wire.body("q", ["a", wrong]))

    assert answer.status_code == 422
    assert wire.sentence(answer.json()).startswith(f"{wire.field}[1]")


@every(WIRES)
@pytest.mark.parametrize("wrong", [None, 5, [], ["q"], {"text": 5}])
async def test_a_query_that_is_none_is_named(
    client: httpx.AsyncClient, wire: Wire, wrong: Any
) -> None:
    answer = await client.post(wire.path, json={**wire.body("q", ["a"]), "query": wrong})

    assert answer.status_code == 422
    assert wire.sentence(answer.json()).startswith("query")


@every(WIRES)
async def test_a_field_that_is_missing_or_wrong_is_named(
    client: httpx.AsyncClient, wire: Wire
) -> None:
    body = wire.body("q", ["a"])
    without_query = {name: value for name, value in body.items() if name != "query"}
    no_list = await client.post(wire.path, json={**body, wire.field: "a"})
    no_query = await client.post(wire.path, json=without_query)

    assert no_list.status_code == no_query.status_code == 422
    assert wire.sentence(no_list.json()).startswith(f"{wire.field}: ")
    assert "missing required field `query`" in wire.sentence(no_query.json())


@every(OF_COHERE)
@pytest.mark.parametrize("wrong", [0, -1, "2", 1.5, True])
async def test_a_top_n_that_is_no_number_of_results_is_named(
    client: httpx.AsyncClient, wire: Wire, wrong: Any
) -> None:
    answer = await client.post(wire.path, json={**wire.body("q", ["a"]), "top_n": wrong})

    assert answer.status_code == 422
    assert wire.sentence(answer.json()).startswith("top_n: ")


@every([one for one in WIRES if one.path != "/rerank"])
@pytest.mark.parametrize("content", [b"{", b"", b"[]", b'{"query": "\\ud800"}'])
async def test_what_is_no_request_is_told_in_the_form_of_the_wire(
    client: httpx.AsyncClient, wire: Wire, content: bytes
) -> None:
    answer = await client.post(wire.path, content=content)

    assert answer.status_code == 422
    assert wire.sentence(answer.json())


@every(WIRES)
async def test_there_is_a_limit_of_documents(client: httpx.AsyncClient, wire: Wire) -> None:
    most = await client.post(wire.path, json=wire.body("q", ["d"] * 1000))
    more = await client.post(wire.path, json=wire.body("q", ["d"] * 1001))

    assert len(wire.scores(most.json())) == 1000
    assert more.status_code == 413
    sentence = "1001 documents; at most 1000 are allowed in one request"
    assert wire.sentence(more.json()) == sentence


@every(WIRES)
async def test_a_text_of_too_many_characters_is_named(wire: Wire) -> None:
    async with serving(FakeReranker(), max_text_chars=10) as client:
        document = await client.post(wire.path, json=wire.body("q", ["d", "d" * 11]))
        query = await client.post(wire.path, json=wire.body("q" * 12, ["d"]))

    assert (document.status_code, query.status_code) == (413, 413)
    sentence = f"{wire.field}[1]: the document has 11 characters"
    assert wire.sentence(document.json()).startswith(sentence)
    assert "the query has 12 characters" in wire.sentence(query.json())


@pytest.mark.models
@every(WIRES)
async def test_long_texts_are_read_as_far_as_the_model_reads(wire: Wire) -> None:
    """Of a pair both halves are cut; a document of 1 MB is refused, as everywhere, and named."""
    bread, long_query = "How do I make bread?", "bread and butter " * 5000
    documents = ["Flour, water, salt.", "Wait a day. " * 8000]
    async with serving(Loaded(reranker("bert"))) as client:
        one = await client.post(wire.path, json=wire.body(bread, documents))
        all_cut = await client.post(wire.path, json=wire.body(long_query, documents[:1]))
        huge = await client.post(wire.path, json=wire.body(bread, ["a", "b" * 1_000_000]))

    assert huge.status_code == 413
    assert wire.sentence(huge.json()).startswith(f"{wire.field}[1]: the document has 1000000 char")
    assert (one.status_code, one.headers.get("x-truncated")) == (200, "1"), one.text
    assert (all_cut.status_code, all_cut.headers.get("x-truncated")) == (200, "0")
    for answer in (one, all_cut):
        assert all(np.isfinite(score) for _, score in wire.scores(answer.json()))
    if wire.path.endswith("2/rerank"):  # 512 of the pair that was cut
        assert one.json()["usage"]["total_tokens"] > 512


@every(WIRES)
async def test_a_token_is_the_key_that_clients_send(wire: Wire) -> None:
    body = wire.body("q", ["d"])
    async with serving(FakeReranker(), authentication_allowed_tokens="a,key") as client:
        known = await client.post(wire.path, json=body, headers={"Authorization": "Bearer key"})
        stranger = await client.post(wire.path, json=body)

    assert known.status_code == 200
    assert stranger.status_code == 401
    # Before a body is read, its form is not known.
    told = under("error") if wire.path == "/rerank" else wire.sentence
    assert told(stranger.json()).startswith("send a token")


@every(WIRES)
async def test_a_full_queue_is_told_in_the_form_of_the_wire(wire: Wire) -> None:
    backend = FakeReranker()
    backend.gate.clear()
    async with serving(backend, max_queue_items=1) as client:
        first = asyncio.create_task(client.post(wire.path, json=wire.body("a", ["d"])))
        await asyncio.to_thread(backend.busy.wait, 10)
        answer = await client.post(wire.path, json=wire.body("b", ["d"]))
        backend.gate.set()
        await first

    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert wire.sentence(answer.json())


@every(WIRES)
async def test_an_embedder_says_so_in_the_form_of_the_wire(wire: Wire) -> None:
    async with serving(FakeModel()) as client:
        answer = await client.post(wire.path, json=wire.body("q", ["d"]))

    assert answer.status_code == 422
    sentence = "this model (fake) makes vectors, and scores no documents: ask a reranker"
    assert wire.sentence(answer.json()) == sentence


@every(WIRES)
async def test_answers_are_counted_and_timed(client: httpx.AsyncClient, wire: Wire) -> None:
    counted = {path: one.paths[0] for one in ENDPOINTS for path in one.paths}[wire.path]
    answer = await client.post(wire.path, json=wire.body("q", ["d"]))
    metrics = (await client.get("/metrics")).text

    assert "encode;dur=" in answer.headers["server-timing"]
    assert f'inference_requests_total{{code="200",endpoint="{counted}"}} 1.0' in metrics


async def test_a_pair_that_one_wire_asked_is_remembered_for_all(
    client: httpx.AsyncClient, backend: FakeReranker
) -> None:
    for wire in WIRES:
        await client.post(wire.path, json=wire.body("q", ["d"]))

    assert [len(batch) for batch in backend.batches] == [1]


@every(WIRES)
async def test_the_examples_of_the_docs_work_when_tried(
    client: httpx.AsyncClient, wire: Wire
) -> None:
    described = (await client.get("/openapi.json")).json()["paths"][wire.path]["post"]
    examples = described["requestBody"]["content"]["application/json"]["schema"]["examples"]

    assert examples
    for example in examples:
        assert (await client.post(wire.path, json=example)).status_code == 200


async def test_info_says_that_it_is_a_reranker(client: httpx.AsyncClient) -> None:
    info = (await client.get("/info")).json()

    label = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    assert info["model_type"] == {"reranker": label}
    assert info["max_client_batch_size"] == 1000

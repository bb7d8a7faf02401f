"""A running service over a reranker's folder answers what the reference's container recorded."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import schemathesis
from schemathesis import GenerationMode

from tests.golden_rerankers import GOLDEN_RERANKERS, RERANKERS, pair_cases, recorded_meta
from tests.service import LAUNCHER, Service, run_to_end, running
from tests.test_openapi import check_all
from web.endpoints import ENDPOINTS

TOLERANCE = 1e-4


class Exchange(NamedTuple):
    """A recorded request and its answer."""

    method: str
    path: str
    headers: dict[str, str]
    body: str | None
    status: int
    answer: Any


def _recorded() -> list[Exchange]:
    return [Exchange(**one) for one in json.loads((GOLDEN_RERANKERS / "http.json").read_text())]


# What the reference does not answer well, and what is answered here.
BETTER: dict[tuple[str, str, str | None], tuple[int, Any]] = {
    ("HEAD", "/.well-known/ready", None): (204, None),
    ("GET", "/.well-known/ready/", None): (204, None),
}
NO_SCORES: dict[str, Any] = {"query": "grey heron", "scores": [], "property": None, "score": None}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("rerank") / "log"
    with running(log, MODELS_DIR=GOLDEN_RERANKERS / "bert", TEXT_MODE="reference") as service:
        yield service


def about(content: Any) -> Any:
    """Let the numbers of an answer be as near as scores must be."""
    if isinstance(content, dict):
        return {name: about(value) for name, value in content.items()}
    if isinstance(content, list):
        return [about(value) for value in content]
    return pytest.approx(content, abs=TOLERANCE) if isinstance(content, float) else content


def expected_of(one: Exchange) -> tuple[int, Any]:
    """The status and the body that are right for a recorded request; None for any error."""
    key = (one.method, one.path, one.body)
    if key in BETTER:
        return BETTER[key]
    if one.path == "/rerank" and one.body and '"documents": []' in one.body:
        return 200, about(NO_SCORES)
    if one.path.startswith("/rerank") and one.method == "POST" and one.body in _SCORED:
        return 200, about(_SCORED[one.body])
    return (422, None) if one.status == 500 else (one.status, about(one.answer) or None)


# Whatever the content type says, and whether a slash ends the address, the answer is one.
_SCORED = {one.body: one.answer for one in _recorded() if one.status == 200 and one.body}


@pytest.mark.parametrize(
    "one",
    [one for one in _recorded() if one.path.rstrip("/") not in ("", "/meta")],
    ids=lambda one: f"{one.method} {one.path} {str(one.body)[:60]}",
)
def test_every_recorded_request_is_answered_as_recorded_or_better(
    bert: Service, one: Exchange
) -> None:
    status, expected = expected_of(one)
    body = None if one.body is None else one.body.encode("utf-8", "surrogatepass")

    answered, answer = bert.request(one.method, one.path, body, one.headers)

    assert answered == status
    if answered < 300:
        assert answer == expected
    else:
        assert answer.keys() == {"error"}
        assert isinstance(answer["error"], str)


def test_meta_has_the_models_own_configuration(bert: Service) -> None:
    for path in ("/meta", "/meta/"):
        status, meta = bert.request("GET", path)

        recorded = recorded_meta("bert")["model"]
        assert status == 200
        for key in ("_name_or_path", "model_type", "architectures", "id2label", "vocab_size"):
            assert meta["model"][key] == recorded[key]
        assert meta["service"]["score_space"]
        assert meta["service"]["text_mode"] == "reference"


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_answer_is_one_that_the_description_announces(
    bert: Service, mode: GenerationMode
) -> None:
    description = schemathesis.openapi.from_url(f"http://127.0.0.1:{bert.port}/openapi.json")
    paths = description.raw_schema["paths"]
    posts = [path for path, operations in paths.items() if "post" in operations]

    assert posts == [path for one in ENDPOINTS if one.scores for path in one.paths]
    for path in posts:  # some are other addresses of one interface
        check_all(description[path]["POST"], mode, examples=75)


@pytest.mark.parametrize("name", RERANKERS)
def test_every_recorded_score_comes_back_over_http(name: str, tmp_path: Path) -> None:
    folder, log = GOLDEN_RERANKERS / name, tmp_path / "log"
    cases = pair_cases(name)
    queries = dict.fromkeys(case.pair.query for case in cases)
    with running(log, MODELS_DIR=folder, TEXT_MODE="reference", VECTOR_CACHE_SIZE=0) as service:
        for query in queries:
            of_query = [case for case in cases if case.pair.query == query]
            documents = [case.pair.document for case in of_query]
            together = scores(service, query, documents)
            assert together == pytest.approx([one.together for one in of_query], abs=TOLERANCE)
            alone = [score for text in documents for score in scores(service, query, [text])]
            assert alone == pytest.approx([one.alone for one in of_query], abs=TOLERANCE)
        for case in cases[:22]:  # the old form, for the first query
            _, answer = service.request(
                "POST", "/rerank", {"query": case.pair.query, "property": case.pair.document}
            )
            assert answer["score"] == pytest.approx(case.alone, abs=TOLERANCE)

    text = log.read_text()
    assert "a reranker (" in text
    assert "POST /rerank, POST /v2/rerank, POST /v1/ranking, GET /meta" in text
    assert "/vectorize" not in text


def scores(service: Service, query: str, documents: list[str]) -> list[float]:
    """The scores of documents, which come back as they were sent."""
    status, answer = service.request("POST", "/rerank", {"query": query, "documents": documents})
    assert status == 200
    assert [one["document"] for one in answer["scores"]] == documents
    return [one["score"] for one in answer["scores"]]


def test_a_classifier_ends_the_start_with_a_sentence() -> None:
    answer = run_to_end(
        LAUNCHER, MODELS_DIR=GOLDEN_RERANKERS / "bert_3_labels", PORT=0, HOST="127.0.0.1"
    )

    log = answer.stdout + answer.stderr
    assert answer.returncode == 1
    assert "Traceback" not in log
    assert "cannot be served: it has 3 labels, so it classifies pairs" in log

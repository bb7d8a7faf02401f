"""The clients of rerankers, each in a process of its own, against the running service."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from backends.scores import sigmoid
from tests.clients.test_clients import asking
from tests.golden_rerankers import GOLDEN_RERANKERS, pair_cases
from tests.service import Service, running

pytestmark = [pytest.mark.clients, pytest.mark.timeout(120)]

CLIENTS = [
    ("ask_cohere.py", "v1", ""),
    ("ask_cohere.py", "v2", ""),
    ("ask_cohere.py", "async", ""),
    ("ask_langchain_cohere.py", "", ""),
    ("ask_llama_index_rerank.py", "cohere", ""),
    ("ask_llama_index_rerank.py", "tei", ""),
    ("ask_llama_index_rerank.py", "nvidia", "/v1"),
    ("ask_langchain_nvidia.py", "", "/v1"),
]
CASES = pair_cases("bert")[:22]
QUERY = CASES[0].pair.query
# LlamaIndex takes the blanks around a text away, and a node without a text is none.
DOCUMENTS = list(dict.fromkeys(case.pair.document.strip() or "none" for case in CASES))
KEY = "none"  # that each client sends


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("rerank-clients") / "log"
    settings = {"AUTHENTICATION_ALLOWED_TOKENS": KEY}
    with running(log, MODELS_DIR=GOLDEN_RERANKERS / "bert", **settings) as service:
        yield service


def post(service: Service, path: str, body: dict[str, Any]) -> Any:
    status, answer = service.request("POST", path, body, {"Authorization": f"Bearer {KEY}"})
    assert status == 200, answer
    return answer


@pytest.fixture(scope="module")
def logits(service: Service) -> np.ndarray:
    """The scores that Weaviate gets; those of `bert` are logits."""
    answer = post(service, "/rerank", {"query": QUERY, "documents": DOCUMENTS})
    return np.array([one["score"] for one in answer["scores"]], np.float32)


@pytest.mark.parametrize(("client", "way", "path"), CLIENTS)
def test_each_client_ranks_as_the_scores_say(
    service: Service, logits: np.ndarray, client: str, way: str, path: str
) -> None:
    ranked = asking(service, client, way, [[QUERY], DOCUMENTS], path)

    expected = logits if "nvidia" in client + way else sigmoid(logits)
    order = np.argsort(-logits, kind="stable")[: len(ranked)].tolist()
    assert len(ranked) == (3 if way == "async" else len(DOCUMENTS))
    assert [place for place, _ in ranked] == order
    np.testing.assert_allclose([score for _, score in ranked], expected[order], atol=1e-6)


def test_a_client_shows_the_sentence_of_an_error(service: Service) -> None:
    sentence = asking(service, "ask_cohere.py", "wrong", [[QUERY], DOCUMENTS], "")

    assert sentence.startswith("top_n: ")


def test_open_webui_gets_its_scores(service: Service, logits: np.ndarray) -> None:
    """Its request, imitated: it sends `top_n`, sorts by `index`, and reads `relevance_score`."""
    body = {"model": "any", "query": QUERY, "documents": DOCUMENTS, "top_n": len(DOCUMENTS)}
    for path in ("/v1/rerank", "/rerank"):
        results = sorted(post(service, path, body)["results"], key=lambda one: one["index"])

        given = [one["relevance_score"] for one in results]
        np.testing.assert_allclose(given, sigmoid(logits), atol=1e-6)

"""`POST /embed` and `POST /` over the wire, as text-embeddings-inference answers them."""

from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from config import VERSION
from tests.asgi import serving
from tests.fakes import TOO_LONG, FakeModel, vector_of

pytestmark = pytest.mark.anyio

# What Weaviate's text2vec-huggingface always sends, whatever the collection says.
OPTIONS = {"options": {"wait_for_model": True, "use_gpu": True}}
LONG = "a" * TOO_LONG


async def ask(
    body: dict[str, Any], path: str = "/embed", *, cuts: bool = False, **settings: Any
) -> httpx.Response:
    backend = FakeModel()
    backend.info = replace(backend.info, cuts=cuts)
    async with serving(backend, **settings) as client:
        return await client.post(path, json=body)


def unit(vector: np.ndarray) -> Any:
    return pytest.approx((vector / np.linalg.norm(vector)).tolist(), rel=1e-6)


@pytest.mark.parametrize("path", ["/", "/embed"])
@pytest.mark.parametrize("given", ["a", ["a"], ["a", "b", ""]])
async def test_texts_become_a_list_of_vectors(path: str, given: str | list[str]) -> None:
    answer = await ask({"inputs": given, **OPTIONS}, path)

    assert answer.status_code == 200
    assert answer.json() == [unit(vector_of(text)) for text in given]


@pytest.mark.parametrize(
    ("options", "vector"),
    [
        ({}, unit(vector_of("a"))),
        ({"normalize": None, "truncate": None, "prompt_name": None}, unit(vector_of("a"))),
        ({"normalize": False}, pytest.approx(vector_of("a").tolist())),
        ({"dimensions": 2}, unit(vector_of("a")[:2])),
        ({"dimensions": 4}, unit(vector_of("a"))),
        ({"dimensions": 2, "normalize": False}, pytest.approx(vector_of("a")[:2].tolist())),
        ({"truncate": False, "truncation_direction": "Left"}, unit(vector_of("a"))),
    ],
)
async def test_options_say_how_it_is_finished(options: dict[str, Any], vector: Any) -> None:
    answer = await ask({"inputs": "a", **options}, cuts=True)

    assert answer.json() == [vector]


@pytest.mark.parametrize(
    ("options", "against"),
    [
        ({"truncate": False}, "`truncate: false`"),
        ({"truncation_direction": "left"}, "`truncation_direction: left`"),
        ({"truncate": True, "truncation_direction": "left"}, "`truncation_direction: left`"),
    ],
)
async def test_a_text_is_cut_at_its_end_or_refused(options: dict[str, Any], against: str) -> None:
    cut = await ask({"inputs": ["a", LONG]})
    refused = await ask({"inputs": ["a", LONG], **options})

    assert (cut.status_code, cut.headers["x-truncated"]) == (200, "1")
    assert refused.status_code == 422
    assert "x-truncated" not in refused.headers
    assert refused.json()["error"].startswith("inputs[1]: longer than the model reads")
    assert against in refused.json()["error"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "the request body: Object missing required field `inputs`"),
        ({"inputs": []}, "inputs: an empty list"),
        ({"inputs": 1}, "inputs: "),
        ({"inputs": ["a", None]}, "inputs[1]: "),
        ({"inputs": [1, 2]}, "inputs: token ids, not texts"),
        ({"inputs": [[1, 2]]}, "inputs: token ids, not texts"),
        ({"inputs": "a", "dimensions": 0}, "dimensions: "),
        ({"inputs": "a", "dimensions": 2}, "dimensions: this model's vectors have 4 numbers"),
        ({"inputs": "a", "truncation_direction": "up"}, "truncation_direction: "),
        ({"inputs": "a", "prompt_name": "sts"}, "prompt_name: no prompt 'sts'; `query` and "),
    ],
)
async def test_what_does_not_fit_is_reported_by_its_kind(
    body: dict[str, Any], sentence: str
) -> None:
    answer = await ask(body)

    assert answer.status_code == 422
    assert answer.json()["error"].startswith(sentence)
    assert answer.json()["error_type"] == "Validation"


@pytest.mark.parametrize(
    ("inputs", "texts"), [([97, 98], ["ab"]), ([[97], [98, 99]], ["a", "bc"]), (["a"], ["a"])]
)
async def test_token_ids_are_read_where_the_operator_says_so(inputs: Any, texts: list[str]) -> None:
    answer = await ask({"inputs": inputs}, embeddings_token_ids="accept")
    mixed = await ask({"inputs": [[97], 98]}, embeddings_token_ids="accept")

    assert answer.json() == [unit(vector_of(text)) for text in texts]
    assert mixed.json()["error"] == "inputs: numbers and lists of numbers, mixed"


@pytest.mark.parametrize("name", ["query", "document", "passage", "retrieval.passage"])
async def test_a_prompt_that_is_known_is_taken(name: str) -> None:
    assert (await ask({"inputs": "a", "prompt_name": name})).status_code == 200


@pytest.mark.parametrize("path", ["/embed_all", "/embed_sparse"])
async def test_other_kinds_of_vectors_are_not_there(path: str) -> None:
    answer = await ask({"inputs": "a"}, path)

    assert answer.status_code == 404
    assert answer.json() == {
        "error": f"POST {path}: this service gives one vector for each text, by POST /embed"
    }


async def test_the_model_is_described() -> None:
    async with serving(FakeModel(), max_request_items=7) as client:
        answer = await client.get("/info")

    assert answer.json() == {
        "model_id": "fake/model",
        "model_sha": None,
        "model_dtype": "float32",
        "served_model_name": "fake/model",
        "model_type": {"embedding": {}},
        "max_client_batch_size": 7,
        "auto_truncate": True,
        "version": VERSION,
    }

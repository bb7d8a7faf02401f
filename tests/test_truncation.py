"""`X-Truncated` and `X-No-Tokens`: which items a model does not read, or not to their ends."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.asgi import serving
from tests.fakes import TOO_LONG, UNKNOWN, FakeModel
from tests.golden_texts import GOLDEN_TEXTS
from tests.image_files import base64_of, plain
from tests.other_endpoint import Embeddings as OtherEmbeddings
from tests.service import running
from web.endpoints import ENDPOINTS
from web.endpoints.base import Endpoint
from web.middleware import in_ranges

pytestmark = pytest.mark.anyio

LONG = ["a" * TOO_LONG, "b" * TOO_LONG]
IMAGE = base64_of(plain((9, 8, 7)))
# Of each interface a request, the places of what is cut in it, and how many they are.
REQUESTS: dict[str, tuple[dict[str, Any], str, int]] = {
    "/vectorize": ({"images": [IMAGE], "texts": ["a", LONG[0], "b", *LONG]}, "1,3-4", 3),
    "/vectors": ({"text": LONG[0]}, "0", 1),
    "/v1/embeddings": ({"input": [{"image": IMAGE}, LONG[0], "a", {"text": LONG[1]}]}, "1,3", 2),
    "/api/embed": ({"input": ["a", LONG[0]]}, "1", 1),
    "/api/embeddings": ({"prompt": LONG[0]}, "0", 1),
    "/embed": ({"inputs": ["a", *LONG]}, "1-2", 2),
    "/other/embeddings": ({"input": ["a", LONG[0]]}, "1", 1),
}


async def post(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> httpx.Response:
    answer = await client.post(path, json=body)
    assert answer.status_code == 200
    return answer


def test_every_interface_is_tried() -> None:
    interfaces: tuple[type[Endpoint[Any]], ...] = (
        *(one for one in ENDPOINTS if not one.scores),  # of scores: tests/test_rerank.py
        OtherEmbeddings,
    )
    assert {one.paths[0] for one in interfaces} == REQUESTS.keys()


@pytest.mark.parametrize("path", REQUESTS)
async def test_what_is_cut_is_named_when_it_is_computed_and_when_it_is_remembered(
    path: str,
) -> None:
    body, places, count = REQUESTS[path]
    async with serving(FakeModel(), (*ENDPOINTS, OtherEmbeddings)) as client:
        computed = await post(client, path, body)
        remembered = await post(client, path, body)
        counted = (await client.get("/metrics")).text

    named = [answer.headers["x-truncated"] for answer in (computed, remembered)]
    assert named == [places, places]
    assert 'inference_cache_lookups_total{result="hit"}' in counted
    assert f"inference_truncated_texts_total {2 * count}.0" in counted


UNKNOWN_TEXTS: dict[str, tuple[dict[str, Any], str, int]] = {
    "/vectorize": ({"images": [IMAGE], "texts": ["a", UNKNOWN, "b", *[UNKNOWN] * 2]}, "1,3-4", 3),
    "/vectors": ({"text": UNKNOWN}, "0", 1),
    "/v1/embeddings": ({"input": [{"image": IMAGE}, UNKNOWN, "a", {"text": UNKNOWN}]}, "1,3", 2),
    "/api/embed": ({"input": ["a", UNKNOWN]}, "1", 1),
    "/api/embeddings": ({"prompt": UNKNOWN}, "0", 1),
    "/embed": ({"inputs": ["a", UNKNOWN, UNKNOWN]}, "1-2", 2),
    "/other/embeddings": ({"input": ["a", UNKNOWN]}, "1", 1),
}


@pytest.mark.parametrize("path", REQUESTS)
async def test_texts_whose_vectors_are_zeros_are_named_and_counted(path: str) -> None:
    body, places, count = UNKNOWN_TEXTS[path]
    async with serving(FakeModel(), (*ENDPOINTS, OtherEmbeddings)) as client:
        computed = await post(client, path, body)
        remembered = await post(client, path, body)
        counted = (await client.get("/metrics")).text

    named = [answer.headers["x-no-tokens"] for answer in (computed, remembered)]
    assert named == [places, places]
    assert f"inference_texts_without_tokens_total {2 * count}.0" in counted


@pytest.mark.parametrize(
    ("path", "field"),
    [
        *(("/vectorize", "texts"), ("/vectors", "texts"), ("/v1/embeddings", "input")),
        *(("/api/embed", "input"), ("/embed", "inputs")),
    ],
)
async def test_what_is_read_whole_is_not_named(path: str, field: str) -> None:
    async with serving(FakeModel()) as client:
        answer = await post(client, path, {field: ["a"]})
        refused = await client.post(path, json={field: [7]})

    assert "x-no-tokens" not in answer.headers
    assert "x-truncated" not in answer.headers
    assert "x-truncated" not in refused.headers


@pytest.mark.parametrize(
    ("places", "written"),
    [
        ([], ""),
        ([0], "0"),
        ([0, 1], "0-1"),
        ([2, 3, 4, 6, 8, 9], "2-4,6,8-9"),
        (range(2048), "0-2047"),
    ],
)
def test_neighbours_are_written_as_one(places: list[int], written: str) -> None:
    assert in_ranges(places) == written


def test_a_header_stays_short() -> None:
    every_other = in_ranges(range(0, 2048, 2))
    assert every_other.split(",")[-1] == "2046"
    assert len(every_other) < 8000

    assert in_ranges(range(0, 2050, 2)).endswith(",2046,...")


def test_model2vec_names_texts_of_which_it_knows_no_token(tmp_path: Path) -> None:
    inputs = ["a cat", "", " \n", "a dog"]
    with running(tmp_path / "log", MODELS_DIR=GOLDEN_TEXTS / "model2vec") as service:
        url = f"http://127.0.0.1:{service.port}"
        embedded = httpx.post(f"{url}/v1/embeddings", json={"input": inputs})
        alone = [httpx.post(f"{url}/vectors", json={"text": text}) for text in inputs]

    assert embedded.headers["x-no-tokens"] == "1-2"
    lengths = [float(np.linalg.norm(item["embedding"])) for item in embedded.json()["data"]]
    assert lengths == pytest.approx([1, 0, 0, 1])
    assert [answer.headers.get("x-no-tokens") for answer in alone] == [None, "0", "0", None]

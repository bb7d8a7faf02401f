"""`/api/` over the wire, as Ollama answers it."""

from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from config import VERSION
from tests.asgi import serving
from tests.fakes import FakeModel, vector_of

pytestmark = pytest.mark.anyio


async def ask(path: str, body: dict[str, Any], *, cuts: bool = False) -> httpx.Response:
    backend = FakeModel()
    backend.info = replace(backend.info, cuts=cuts)
    async with serving(backend) as client:
        return await client.post(path, json=body)


def unit(vector: np.ndarray) -> Any:
    return pytest.approx((vector / np.linalg.norm(vector)).tolist(), rel=1e-6)


@pytest.mark.parametrize("model", ["nomic-embed-text", "nomic-embed-text:latest", ""])
@pytest.mark.parametrize("given", ["a", ["a"], ["a", "b"]])
async def test_texts_become_vectors_of_length_1_under_any_name(
    model: str, given: str | list[str]
) -> None:
    unknown = {"keep_alive": "5m", "options": {"num_ctx": 8}, "truncate": True, "prefix": "x"}
    answer = await ask("/api/embed", {"model": model, "input": given, **unknown})

    assert answer.status_code == 200
    assert answer.json() == {
        "model": model,
        "embeddings": [unit(vector_of(text)) for text in given],
        "prompt_eval_count": 0,
    }


@pytest.mark.parametrize("body", [{}, {"input": None}, {"input": ""}, {"input": []}])
async def test_nothing_is_answered_with_nothing(body: dict[str, Any]) -> None:
    answer = await ask("/api/embed", body)

    assert answer.json() == {"model": "fake/model", "embeddings": [], "prompt_eval_count": 0}


async def test_an_empty_text_in_a_list_is_a_text() -> None:
    answer = await ask("/api/embed", {"input": [""]})

    assert answer.json()["embeddings"] == [unit(vector_of(""))]


async def test_one_prompt_has_the_vector_that_the_model_gives() -> None:
    one = await ask("/api/embeddings", {"model": "any", "prompt": "a", "options": None})
    none = [await ask("/api/embeddings", body) for body in ({}, {"prompt": ""}, {"prompt": None})]

    assert one.json() == {"embedding": pytest.approx(vector_of("a").tolist())}
    assert [answer.json() for answer in none] == [{"embedding": []}] * 3


@pytest.mark.parametrize(("wanted", "given"), [(None, 4), (0, 4), (-1, 4), (2, 2), (4, 4), (9, 4)])
async def test_dimensions_keep_so_many(wanted: int | None, given: int) -> None:
    answer = await ask("/api/embed", {"input": "a", "dimensions": wanted}, cuts=True)

    assert answer.json()["embeddings"] == [unit(vector_of("a")[:given])]


async def test_a_model_that_is_not_cut_says_so() -> None:
    answer = await ask("/api/embed", {"input": "a", "dimensions": 2})

    assert answer.status_code == 400
    assert answer.json() == {
        "error": "dimensions: this model's vectors have 4 numbers, and cannot be cut to 2"
    }


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("/api/embed", {"input": 1}, "input: Expected `str | array | null`, got `int`"),
        ("/api/embed", {"input": ["a", 1]}, "input[1]: Expected `str`, got `int`"),
        ("/api/embed", {"input": [[1, 2]]}, "input[0]: Expected `str`, got `array`"),
        ("/api/embeddings", {"prompt": ["a"]}, "prompt: Expected `str | null`, got `array`"),
    ],
)
async def test_what_cannot_be_read_is_400(path: str, body: dict[str, Any], sentence: str) -> None:
    answer = await ask(path, body)

    assert answer.status_code == 400
    assert answer.json() == {"error": sentence}


@pytest.mark.parametrize(
    ("name", "tagged"),
    [("org/nomic", "org/nomic:latest"), ("nomic:v1.5", "nomic:v1.5")],
)
async def test_the_model_is_listed_with_a_tag(name: str, tagged: str) -> None:
    backend = FakeModel()
    backend.info = replace(
        backend.info, name=name, parameters=22_700_000, vector_space="abc", precision="int8"
    )
    async with serving(backend) as client:
        (model,) = (await client.get("/api/tags")).json()["models"]

    assert model["name"] == model["model"] == tagged
    assert (model["size"], model["digest"]) == (22_700_000, "abc")
    assert model["details"] == {
        "parent_model": "",
        "format": "torch",
        "family": "fake",
        "families": ["fake"],
        "parameter_size": "22.7M",
        "quantization_level": "int8",
    }


async def test_the_version_is_this_services() -> None:
    async with serving(FakeModel()) as client:
        answer = await client.get("/api/version")

    assert answer.json() == {"version": VERSION}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/api/chat", 404), ("GET", "/api/embed", 405), ("POST", "/api/tags", 405)],
)
async def test_what_is_not_there_is_a_sentence(method: str, path: str, status: int) -> None:
    async with serving(FakeModel()) as client:
        answer = await client.request(method, path)

    assert answer.status_code == status
    assert answer.json()["error"].startswith(f"{method} {path}: ")


async def test_open_webui_finds_the_model_and_embeds_by_it() -> None:
    """Its backend asks for the version and the tags, and sends an empty token where it has none."""
    headers = {"Authorization": "Bearer ", "X-OpenWebUI-User-Name": "Ada"}
    async with serving(FakeModel()) as client:
        version = (await client.get("/api/version", headers=headers)).json()["version"]
        (model,) = (await client.get("/api/tags", headers=headers)).json()["models"]
        body = {"input": ["a", "b"], "model": model["model"], "truncate": True}
        answer = await client.post("/api/embed", json=body, headers=headers)

    assert all(part.isdigit() for part in version.split("."))
    assert len(answer.json()["embeddings"]) == 2
    assert answer.json()["model"] == "fake/model:latest"

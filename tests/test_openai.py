"""`/v1/embeddings` and `/v1/models`: what clients of OpenAI's API and its kin send and read."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from typing_extensions import override

from backends.model import EncodeParams, Model, ModelInput, Tower
from errors import ConfigurationError
from inference.fair_queue import FairQueue
from inference.request import RequestContext
from tests.asgi import serving
from tests.fakes import AsItIs, FakeModel, vector_of
from tests.image_files import base64_of, plain
from web.endpoints.images import EXAMPLE_IMAGE, is_data_url, is_hidden_image

pytestmark = pytest.mark.anyio

PATH = "/v1/embeddings"
IMAGE = base64_of(plain((9, 8, 7)))
PIXELS = Image.new("RGB", (8, 8), (9, 8, 7)).tobytes()
DATA_URL = f"data:image/png;base64,{IMAGE}"


class Prompted(AsItIs):
    """Its texts have a prompt for what they are for, and a token for each letter."""

    @override
    def resolve(self, params: EncodeParams) -> EncodeParams:
        return EncodeParams(task=params.task)

    @override
    def prepare(self, part: str, params: EncodeParams) -> ModelInput:
        prompt = f"{params.task}: " if params.task else ""
        return replace(super().prepare(prompt + part, params), tokens=len(part))


class PromptedModel(FakeModel):
    @property
    @override
    def model(self) -> Model:
        model = super().model
        texts = replace(model.towers["text"], processor=Prompted())
        return replace(model, towers={**model.towers, "text": texts})


@pytest.fixture
def backend() -> FakeModel:
    backend = PromptedModel()
    backend.info = replace(backend.info, name="fake-model-2", cuts=True)
    return backend


def unit(content: str | bytes, dimensions: int | None = None) -> list[float]:
    vector = vector_of(content)[:dimensions]
    return (vector / np.linalg.norm(vector)).tolist()  # type: ignore[no-any-return]


async def embedded(client: httpx.AsyncClient, **body: Any) -> list[list[float]]:
    answer = await client.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    return [item["embedding"] for item in answer.json()["data"]]


async def refused(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post(PATH, json=body)
    assert answer.status_code == 400
    error: dict[str, Any] = answer.json()["error"]
    return error


async def test_an_answer_has_the_shape_of_the_api(client: httpx.AsyncClient) -> None:
    body = {"input": ["one", "three"], "model": "text-embedding-3-small", "user": "someone"}
    answer = (await client.post(PATH, json=body)).json()

    assert answer == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": pytest.approx(unit("one"))},
            {"object": "embedding", "index": 1, "embedding": pytest.approx(unit("three"))},
        ],
        "model": "text-embedding-3-small",
        "usage": {"prompt_tokens": 8, "total_tokens": 8},
    }


@pytest.mark.parametrize("model", [{}, {"model": None}])
async def test_a_request_that_names_no_model_is_told_which_it_is(
    client: httpx.AsyncClient, model: dict[str, Any]
) -> None:
    answer = await client.post(PATH, json={"input": "a", **model})

    assert answer.json()["model"] == "fake-model-2"


async def test_base64_is_float32_in_little_endian_order(client: httpx.AsyncClient) -> None:
    text: Any
    (text,) = await embedded(client, input="a", encoding_format="base64")
    numbers = await embedded(client, input="a", encoding_format="float")

    np.testing.assert_array_equal(
        np.frombuffer(base64.b64decode(text), "<f4"), np.array(numbers[0], np.float32)
    )


async def test_vectors_have_length_1_unless_asked_otherwise(client: httpx.AsyncClient) -> None:
    as_it_is = await embedded(client, input="a", normalized=False)

    assert await embedded(client, input="a") == [pytest.approx(unit("a"))]
    assert as_it_is == [pytest.approx(vector_of("a").tolist())]


# --- dimensions


@pytest.mark.parametrize(("asked", "left"), [(2, 2), (4, None), (None, None)])
async def test_vectors_are_cut_where_the_model_allows_it(
    client: httpx.AsyncClient, asked: int | None, left: int | None
) -> None:
    assert await embedded(client, input="a", dimensions=asked) == [pytest.approx(unit("a", left))]


async def test_a_default_stands_for_clients_that_cannot_ask(backend: FakeModel) -> None:
    async with serving(backend, embeddings_dimensions=2) as client:
        assert await embedded(client, input="a") == [pytest.approx(unit("a", 2))]
        assert await embedded(client, input="a", dimensions=3) == [pytest.approx(unit("a", 3))]


@pytest.mark.parametrize(
    ("cuts", "asked", "sentence"),
    [
        (True, 5, "dimensions: this model's vectors have only 4 numbers"),
        (False, 2, "dimensions: this model's vectors have 4 numbers, and cannot be cut to 2"),
        (True, 0, "dimensions: Expected `int` >= 1"),
    ],
)
async def test_what_cannot_be_cut_is_told(
    backend: FakeModel, cuts: bool, asked: int, sentence: str
) -> None:
    backend.info = replace(backend.info, cuts=cuts)
    async with serving(backend) as client:
        error = await refused(client, input="a", dimensions=asked)
        whole = await embedded(client, input="a", dimensions=4)

    assert (error["message"], error["param"]) == (sentence, "dimensions")
    assert whole == [pytest.approx(unit("a"))]


async def test_a_default_that_the_model_cannot_keep_ends_the_start() -> None:
    with pytest.raises(ConfigurationError, match=r"EMBEDDINGS_DIMENSIONS=2: .* cannot be cut"):
        async with serving(FakeModel(), embeddings_dimensions=2):
            pass


# --- images


@pytest.mark.parametrize(
    "body",
    [
        {"input": [{"image": IMAGE}]},
        {"input": {"image": IMAGE}},
        {"input": [{"image": DATA_URL}]},
        {"input": DATA_URL},
        {"input": [DATA_URL.replace("image", "Image")]},
        {"input": [IMAGE], "modality": "image"},
        {"input": [DATA_URL], "modality": "text"},  # infinity's default, whatever the input is
        {"input": f"data:image;base64,{IMAGE}"},
        {"input": f"data:;base64,{IMAGE}"},
        {"input": f"data:application/octet-stream;base64,{IMAGE}"},
        {"input": f"DATA:Image/PNG;name=a.png;Base64,{IMAGE}"},
        {"input": f" \n\t{DATA_URL}\n"},
        {"input": f" data:;base64,{IMAGE}"},
        {"input": {"image": f"\n{DATA_URL}"}},
    ],
)
async def test_an_image_comes_in_many_ways(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    answer = (await client.post(PATH, json=body)).json()

    assert [item["embedding"] for item in answer["data"]] == [pytest.approx(unit(PIXELS))]
    assert answer["usage"] == {"prompt_tokens": 0, "total_tokens": 0}


async def test_texts_and_images_stay_in_order(client: httpx.AsyncClient) -> None:
    mixed = [{"image": IMAGE}, "a", {"text": "b"}, DATA_URL]

    assert await embedded(client, input=mixed) == [
        pytest.approx(unit(content)) for content in (PIXELS, "a", "b", PIXELS)
    ]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"input": ["a", {"image": "https://example.com/a.png"}]}, "input[1]"),
        ({"input": "HTTP://example.com/a.png", "modality": "image"}, "input[0]"),
        ({"input": {"image": "file:///etc/passwd"}}, "input[0]"),
        ({"input": {"image": " https://example.com/a.png"}}, "input[0]"),
    ],
)
async def test_no_url_is_fetched(
    client: httpx.AsyncClient, body: dict[str, Any], where: str
) -> None:
    error = await refused(client, **body)

    assert error["message"].startswith(f"{where}: a URL, and none is ever fetched here")
    assert error["param"] == where


async def test_a_url_is_a_text_like_any_other(client: httpx.AsyncClient) -> None:
    assert await embedded(client, input="https://a.b/c") == [pytest.approx(unit("https://a.b/c"))]


FILE = base64_of(np.random.default_rng(0).bytes(600))
IN_LINES = base64.encodebytes(base64.b64decode(FILE)).decode()


@pytest.mark.parametrize(
    "item",
    [
        FILE,
        IN_LINES,
        IN_LINES.replace("\n", "\r\n"),
        {"text": FILE},
        f" {FILE}",
        f'"{FILE}"',
        f"b'{FILE}'",
        f"base64,{FILE}",
        {"text": DATA_URL},
        f'"{DATA_URL}"',
        f"'{DATA_URL}'",
        f" `{DATA_URL}`",
        f"\ufeff{DATA_URL}",
        f"![a drawing]({DATA_URL})",
        f"![]( <{DATA_URL}>)",
        f"[![a]({DATA_URL})](https://example.org)",
        f"[a]: {DATA_URL}",
        f'<img alt="a" src="{DATA_URL}">',
        f"<IMG\nsrc={DATA_URL}>",
        f"url('{DATA_URL}')",
        f"image/jpeg;base64,{IMAGE}",
        f"data: image/png;charset=utf-8; base64,{IMAGE}",
    ],
)
async def test_a_file_that_claims_to_be_a_text_is_refused(
    client: httpx.AsyncClient, item: Any
) -> None:
    error = await refused(client, input=["a", item])

    assert error["message"].startswith("input[1]: base64 that was sent as a text: send a picture")


@pytest.mark.parametrize(
    "item",
    [
        "data:;base64,bm8gcGljdHVyZQ==",
        "data:text/plain;base64,bm8gcGljdHVyZQ==",
        "data:image/png,bm8gcGljdHVyZQ==",
        "data:image/png; base64,bm8gcGljdHVyZQ==",
        f"{DATA_URL} and what it shows",
    ],
)
async def test_a_data_url_is_an_image_or_refused_but_never_a_text(
    client: httpx.AsyncClient, item: str
) -> None:
    error = await refused(client, input=["a", item])

    assert error["param"] == "input[1]"
    assert error["code"] in {"not_an_image", "broken_image", "base64"}


@pytest.mark.parametrize(
    "text",
    [
        "ACGT" * 200,
        "a" * 1000,
        "Wort4" * 40,
        "Ein Satz 1. " * 100,
        "data: the numbers, and what they mean",
        "Data:image;base64 is how a URL begins that holds a picture",
        f"A page may hold {DATA_URL}",
        "image/jpeg; base64 is one of its parts",
        '"Base64," she said',
        "[a]: https://example.org/a.png",
        '<img src="a.png">',
    ],
)
async def test_long_texts_of_other_kinds_are_texts(client: httpx.AsyncClient, text: str) -> None:
    assert await embedded(client, input=text) == [pytest.approx(unit(text))]


@pytest.mark.parametrize(
    "unit", ["data:;", "[", "![", "<img ", " ", "a/", "data:a/;", "url(", "b'"]
)
def test_no_text_takes_long_to_be_known_for_one(unit: str) -> None:
    text = unit * 1_000_000
    started_s = time.process_time()

    assert not is_data_url(text)
    assert not is_hidden_image(text)
    assert time.process_time() - started_s < 0.5  # the event loop waits meanwhile


# --- what a vector is for


@pytest.mark.parametrize(
    ("said", "prompt"),
    [
        ({"input_type": "query"}, "query: "),
        ({"input_type": "search_query"}, "query: "),
        ({"task": "retrieval.query"}, "query: "),
        ({"input_type": "document"}, "passage: "),
        ({"task": "retrieval.passage"}, "passage: "),
        ({"task": "classification"}, "classification: "),
        ({"input_type": None, "task": None}, ""),
    ],
)
async def test_what_it_is_for_chooses_the_models_own_prompt(
    client: httpx.AsyncClient, said: dict[str, Any], prompt: str
) -> None:
    assert await embedded(client, input="a", **said) == [pytest.approx(unit(f"{prompt}a"))]


@pytest.mark.parametrize("field", ["input_type", "task"])
@pytest.mark.parametrize("content", ["a", [97]])
async def test_what_it_is_for_is_a_word(own: httpx.AsyncClient, field: str, content: Any) -> None:
    fits = await own.post(PATH, json={"input": content, field: "t" * 64})
    error = await refused(own, **{"input": content, field: "t" * 65})

    assert fits.status_code == 200
    assert error["message"] == f"{field}: Expected `str` of length <= 64"


async def test_queries_go_first(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    are_queries: list[bool] = []
    give_turn = FairQueue.give_turn

    def note(self: FairQueue[Any], entry: Any, request: RequestContext) -> None:
        are_queries.append(request.is_query)
        give_turn(self, entry, request)

    monkeypatch.setattr(FairQueue, "give_turn", note)
    await embedded(client, input="a", input_type="query")
    await embedded(client, input="b", input_type="document")

    assert are_queries == [True, False]


# --- what is refused


@pytest.mark.parametrize("ids", [[1, 2], [[9906, 1917], [42]], [[]], ["a", 3]])
async def test_what_is_no_text_is_refused(client: httpx.AsyncClient, ids: list[Any]) -> None:
    error = await refused(client, input=ids)

    assert error["param"].startswith("input")


@pytest.mark.parametrize("ids", [[1, 2], [[9906, 1917], [42]]])
async def test_token_ids_are_told_what_to_do(client: httpx.AsyncClient, ids: list[Any]) -> None:
    error = await refused(client, input=ids, model="a")

    assert "check_embedding_ctx_length=False" in error["message"]


@pytest.fixture
async def own(backend: FakeModel) -> AsyncIterator[httpx.AsyncClient]:
    """A service whose clients know the model's vocabulary: letters, by their numbers."""
    async with serving(backend, embeddings_token_ids="accept") as client:
        yield client


@pytest.mark.parametrize(
    ("ids", "texts"), [([97, 98], ["ab"]), ([[97, 98], [99]], ["ab", "c"]), ([[97]], ["a"])]
)
async def test_ids_of_the_models_own_vocabulary_are_texts(
    own: httpx.AsyncClient, ids: list[Any], texts: list[str]
) -> None:
    answer = (await own.post(PATH, json={"input": ids, "encoding_format": "float"})).json()

    assert [item["embedding"] for item in answer["data"]] == [pytest.approx(unit(t)) for t in texts]
    assert answer["usage"]["prompt_tokens"] == sum(map(len, texts))


async def test_where_ids_are_taken_texts_are_too(own: httpx.AsyncClient) -> None:
    query = await embedded(own, input=[[97]], input_type="query", dimensions=2)

    assert query == [pytest.approx(unit("query: a", 2))]
    assert await embedded(own, input=["a"]) == [pytest.approx(unit("a"))]


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        ([97, 0], "input[0]: 0 is no letter"),
        ([[97], [98, 0]], "input[1]: 0 is no letter"),
        ([[97], []], "input[1]: an empty list"),
        ([[97], 98], "input: numbers and lists of numbers"),
        ([[97], "a"], "input[1]: Expected"),
        ([97, 1.5], "input[1]: Expected `int"),
        ([[]], "input[0]: Expected"),
    ],
)
async def test_ids_that_are_none_are_told(
    own: httpx.AsyncClient, ids: list[Any], sentence: str
) -> None:
    error = await refused(own, input=ids)

    assert error["message"].startswith(sentence)


async def test_a_long_text_of_ids_is_bounded_like_any_other(backend: FakeModel) -> None:
    async with serving(backend, embeddings_token_ids="accept", max_text_chars=2000) as client:
        fits = await embedded(client, input=[[97] * 2000])
        long = await client.post(PATH, json={"input": [[97], [97] * 2001]})

    assert fits == [pytest.approx(unit("a" * 2000))]
    assert long.status_code == 413
    assert long.json()["error"]["message"].startswith("input[1]: 2001 characters")


async def test_no_endless_list_of_ids_is_built(own: httpx.AsyncClient) -> None:
    answer = await own.post(PATH, json={"input": [7] * 300_002})

    assert answer.status_code == 413
    assert "over 300000 commas" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "the request body: Object missing required field `input`"),
        ({"input": []}, "input: an empty list"),
        ({"input": [{}]}, "input[0]: neither `text` nor `image`, or both"),
        ({"input": [{"text": "a", "image": IMAGE}]}, "input[0]: neither `text` nor `image`"),
        ({"input": "a", "encoding_format": "binary"}, "encoding_format: Invalid enum value"),
        ({"input": "a", "modality": "audio"}, "modality: Invalid enum value"),
        ({"input": [{"image": "?"}]}, "input[0]: "),
    ],
)
async def test_a_bad_request_is_told_what_was_wrong(
    client: httpx.AsyncClient, body: dict[str, Any], sentence: str
) -> None:
    error = await refused(client, **body)

    assert error["message"].startswith(sentence)
    assert error["type"] == "invalid_request_error"


async def test_2048_inputs_are_a_request_and_one_more_is_told_how_many_fit(
    client: httpx.AsyncClient,
) -> None:
    texts = [f"text {i}" for i in range(2049)]
    vectors = await embedded(client, input=texts[:2048])
    too_many = await client.post(PATH, json={"input": texts})

    assert vectors[2047] == pytest.approx(unit("text 2047"))
    assert too_many.status_code == 413
    assert "at most 2048 are allowed" in too_many.json()["error"]["message"]


async def test_an_item_at_fault_fails_its_own_request_only(client: httpx.AsyncClient) -> None:
    broken = base64_of(b"no picture")
    fine, bad = await asyncio.gather(
        client.post(PATH, json={"input": ["a", {"image": IMAGE}]}),
        client.post(PATH, json={"input": ["b", {"image": broken}]}),
    )

    assert fine.status_code == 200
    assert bad.status_code == 400
    error = bad.json()["error"]
    assert error.pop("message").startswith("input[1]: not an image")
    assert error == {
        "type": "invalid_request_error",
        "param": "input[1]",
        "code": "not_an_image",
    }


async def test_an_image_is_refused_by_a_model_of_texts() -> None:
    class TextModel(FakeModel):
        @property
        @override
        def model(self) -> Model:
            model = super().model
            towers: dict[Any, Tower] = {"text": model.towers["text"]}
            return replace(model, towers=towers)

    async with serving(TextModel()) as client:
        error = await refused(client, input=[{"image": IMAGE}])

    assert "has no tower for images" in error["message"]


async def test_errors_that_are_not_of_the_request_have_their_own_type(backend: FakeModel) -> None:
    async with serving(backend, authentication_allowed_tokens="a") as client:
        stranger = await client.post(PATH, json={"input": "a"})
        friend = await client.post(PATH, json={"input": "a"}, headers={"Authorization": "Bearer a"})
    async with serving(backend, max_queue_items=1) as client:
        backend.gate.clear()
        backend.busy.clear()
        first = asyncio.create_task(client.post(PATH, json={"input": "first"}))
        await asyncio.to_thread(backend.busy.wait, 10)
        crowded = await client.post(PATH, json={"input": "second"})
        backend.gate.set()
        await first

    assert friend.status_code == 200
    assert (stranger.status_code, crowded.status_code) == (401, 429)
    assert stranger.json()["error"]["type"] == "authentication_error"
    assert crowded.json()["error"]["type"] == "rate_limit_error"
    assert int(crowded.headers["retry-after"]) >= 1


# --- models


async def test_the_loaded_model_is_the_one_that_there_is(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()
    (model,) = listed["data"]

    assert (listed["object"], model["object"], model["id"]) == ("list", "model", "fake-model-2")
    assert (await client.get(f"/v1/models/{model['id']}")).json() == model


async def test_a_model_may_have_a_name_with_a_slash(backend: FakeModel) -> None:
    backend.info = replace(backend.info, name="openai/clip")
    async with serving(backend) as client:
        found = await client.get("/v1/models/openai/clip")
        named = await client.post(PATH, json={"input": "a"})

    assert (found.json()["id"], named.json()["model"]) == ("openai/clip", "openai/clip")


async def test_another_model_is_not_found_in_the_shape_of_the_api(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get("/v1/models/gpt-4")

    assert answer.status_code == 404
    assert "there is: fake-model-2" in answer.json()["error"]["message"]


async def test_its_requests_are_counted_and_timed(client: httpx.AsyncClient) -> None:
    answer = await client.post(PATH, json={"input": ["a", {"image": EXAMPLE_IMAGE}]})
    counted = (await client.get("/metrics")).text

    assert "encode;dur=" in answer.headers["server-timing"]
    assert f'inference_requests_total{{code="200",endpoint="{PATH}"}} 1.0' in counted
    assert 'inference_items_total{modality="image"} 1.0' in counted

"""`POST /vectors` over the wire: one text, one image or several texts, on a fake model."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest

from backends.model import Model
from tests.asgi import serving
from tests.fakes import FakeModel, vector_of
from tests.image_files import base64_of, plain

pytestmark = pytest.mark.anyio

IMAGE = base64_of(plain())


class OneTower(FakeModel):
    """Reads texts only; its vectors can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.info = replace(self.info, image_px=0, cuts=True)

    @property
    def model(self) -> Model:
        model = super().model
        return replace(model, towers={"text": model.towers["text"]})


async def ask(body: dict[str, Any], backend: FakeModel | None = None) -> httpx.Response:
    async with serving(backend or FakeModel()) as client:
        return await client.post("/vectors", json=body)


@pytest.mark.parametrize("path", ["/vectors", "/vectors/"])
@pytest.mark.parametrize(
    "config",
    [
        *({}, {"config": None}, {"config": {}}, {"config": {"unknown": 1}}),
        {"config": {"pooling_strategy": None, "task_type": None, "dimensions": None}},
        {"config": {"dimensions": "2"}},  # this model cuts nothing
        {"config": {"dimensions": 2.0}},
        {"config": {"dimensions": True}},
        {
            "dims": 0,
            "vector": None,
            "error": "",
            "config": {"pooling_strategy": "masked_mean", "task_type": "passage"},
        },
    ],
)
async def test_a_text_comes_back_with_its_vector(path: str, config: dict[str, Any]) -> None:
    async with serving(FakeModel()) as client:
        answer = await client.post(path, json={"text": "a\0b", **config})

    assert answer.status_code == 200
    vector = pytest.approx(vector_of("a\0b").tolist())
    assert answer.json() == {"text": "a\0b", "vector": vector, "dim": 4}


async def test_a_body_is_read_whatever_its_content_type() -> None:
    async with serving(FakeModel()) as client:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = await client.post("/vectors", content='{"text": "a"}', headers=headers)

    assert answer.status_code == 200


@pytest.mark.parametrize("texts", [[], ["a"], ["a", "b", "a"]])
async def test_texts_come_back_as_a_list_of_vectors(texts: list[str]) -> None:
    answer = await ask({"texts": texts, "config": {"task_type": "passage"}})

    assert answer.status_code == 200
    assert answer.json() == {
        "vectors": [pytest.approx(vector_of(text).tolist()) for text in texts],
        "dims": 4 if texts else 0,
    }


async def test_texts_that_are_null_are_not_there() -> None:
    answer = await ask({"texts": None, "text": "a"})

    assert answer.json()["text"] == "a"


async def test_texts_are_cut_as_a_text_is() -> None:
    answer = await ask({"texts": ["a"], "config": {"dimensions": 2}}, OneTower())

    vector = vector_of("a")[:2]
    assert answer.json()["dims"] == 2
    assert answer.json()["vectors"] == [pytest.approx((vector / (vector @ vector) ** 0.5).tolist())]


@pytest.mark.parametrize("identity", [{"id": "7"}, {}])
async def test_an_image_comes_back_by_its_id(identity: dict[str, str]) -> None:
    answer = await ask({**identity, "image": IMAGE})

    assert answer.status_code == 200
    assert answer.json()["id"] == identity.get("id")
    assert answer.json()["dim"] == len(answer.json()["vector"]) == 4


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, 'the request body: expected a "text", "texts", or an "id" and an "image"'),
        ({"text": None}, 'the request body: expected a "text"'),
        ({"text": 5}, "text: "),
        ({"text": ["a", "b"]}, "text: "),
        ({"text": "a", "config": []}, "config: "),
        ({"text": "a", "config": "cls"}, "config: "),
        ({"text": "a", "config": {"pooling_strategy": 1}}, "config.pooling_strategy: "),
        ({"text": "a", "config": {"pooling_strategy": "m" * 65}}, "config.pooling_strategy: "),
        (
            {"text": "a", "config": {"task_type": "t" * 65}},
            "config.task_type: Expected `str` of length <= 64",
        ),
        ({"text": "a", "config": {"dimensions": "many"}}, "config.dimensions: "),
        ({"text": "a", "config": {"dimensions": 1.5}}, "config.dimensions: "),
        ({"text": "a", "config": {"dimensions": -3}}, "config.dimensions: -3; expected how many"),
        ({"id": "7", "image": "?"}, "image: not base64"),
        ({"texts": "a"}, "texts: "),
        ({"texts": ["a", 5]}, "texts[1]: "),
        ({"texts": ["a"], "text": "a"}, 'the request body: "texts" beside a "text"'),
        ({"texts": [], "id": "7", "image": IMAGE}, 'the request body: "texts" beside'),
        ({"texts": ["a"], "config": {"dimensions": -3}}, "config.dimensions: -3"),
    ],
)
async def test_what_does_not_fit_is_told_in_a_sentence(body: dict[str, Any], sentence: str) -> None:
    answer = await ask(body)

    assert answer.status_code == 422
    assert answer.json()["error"].startswith(sentence)


@pytest.mark.parametrize("content", ["", '["hello"]', '{"text": "hel', '{"text": "\\ud800"}'])
async def test_what_is_no_such_body_is_told_in_a_sentence(content: str) -> None:
    async with serving(FakeModel()) as client:
        answer = await client.post("/vectors", content=content)

    assert answer.status_code == 422
    assert isinstance(answer.json()["error"], str)


async def test_a_model_of_texts_only_answers_texts_by_either_interface() -> None:
    async with serving(OneTower()) as client:
        image = await client.post("/vectors", json={"id": "7", "image": IMAGE})
        both = await client.post("/vectorize", json={"texts": ["a"], "images": [IMAGE]})
        texts = await client.post("/vectorize", json={"texts": ["a"]})

    sentence = "this model (fake) has no tower for images; it embeds texts only"
    assert image.json()["error"] == f"image: {sentence}"
    assert both.json()["error"] == f"images[0]: {sentence}"
    assert texts.json()["textVectors"] == [pytest.approx(vector_of("a").tolist())]
    assert (image.status_code, both.status_code) == (422, 422)


@pytest.mark.parametrize(("wanted", "given"), [(0, 4), (2, 2), (4, 4), (9, 4)])
async def test_a_model_that_allows_it_is_cut_and_scaled(wanted: int, given: int) -> None:
    answer = await ask({"text": "a", "config": {"dimensions": wanted}}, OneTower())

    vector = vector_of("a")[:given]
    if given < 4:
        vector = vector / (vector @ vector) ** 0.5
    assert answer.json()["vector"] == pytest.approx(vector.tolist())
    assert answer.json()["dim"] == given


async def test_queries_go_before_passages() -> None:
    backend = FakeModel()
    backend.gate.clear()
    order: list[str] = []
    async with serving(backend) as client:

        async def ask_for(text: str, task: str) -> None:
            await client.post("/vectors", json={"text": text, "config": {"task_type": task}})
            order.append(text)

        asked = [asyncio.create_task(ask_for("first", "passage"))]
        await asyncio.to_thread(backend.busy.wait, 10)
        asked += [asyncio.create_task(ask_for(f"passage {i}", "passage")) for i in range(40)]
        await asyncio.sleep(0.1)
        asked.append(asyncio.create_task(ask_for("query", "query")))
        await asyncio.sleep(0.1)
        backend.gate.set()
        await asyncio.gather(*asked)

    assert order[:2] == ["first", "query"]

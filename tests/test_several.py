"""Several models behind one address: which of them answers, and what each says of itself."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app import create_app
from config import Settings
from errors import ConfigurationError, DeviceLostError, ModelFolderError
from tests.image_files import base64_of, plain
from tests.several import PAIR, AnyFake, Named, Scores, Texts, serving, text_of
from vectorizer import load_vectorizer

pytestmark = pytest.mark.anyio

IMAGE = base64_of(plain((9, 8, 7)))
ALIASES = "rerank-v3.5=rerank,text-embedding-3-small=minilm,org/clip=clip"


@pytest.fixture
async def client(fakes: Sequence[AnyFake], tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(tmp_path, fakes, default_model="clip", model_aliases=ALIASES) as client:
        yield client


# --- the path


@pytest.mark.parametrize("name", ["clip", "minilm"])
async def test_the_path_names_a_model(
    client: httpx.AsyncClient, fakes: Sequence[AnyFake], name: str
) -> None:
    (fake,) = [one for one in fakes if one.name == name]
    assert isinstance(fake, Named)
    answer = await client.post(f"/m/{name}/vectorize", json={"texts": ["a"]})
    one = await client.post(f"/m/{name}//vectors/", json={"text": "a"})

    np.testing.assert_array_equal(text_of(answer), fake.vector_of("a"))
    np.testing.assert_array_equal(np.array(one.json()["vector"], np.float32), fake.vector_of("a"))
    assert answer.headers["x-model"] == one.headers["x-model"] == name


async def test_a_reranker_is_named_by_the_path_too(client: httpx.AsyncClient) -> None:
    answer = await client.post("/m/rerank/rerank", json=PAIR)
    (score,) = answer.json()["scores"]

    assert score["score"] == pytest.approx(Scores("rerank").score_of("q", "d"))


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("/m/rerank/vectorize", {"texts": ["a"]}, "is a reranker"),
        ("/m/clip/rerank", PAIR, "makes vectors, and scores no documents"),
        ("/m/minilm/vectorize", {"images": [IMAGE]}, "has no tower for images"),
    ],
)
async def test_below_its_path_a_model_answers_as_if_it_were_alone(
    client: httpx.AsyncClient, path: str, body: Any, sentence: str
) -> None:
    answer = await client.post(path, json=body)

    assert answer.status_code == 422
    assert sentence in answer.json()["error"]


UNKNOWN = [
    *("nothing", "Clip", "clip%20", "%2e%2e", "%2e", "c%00lip", "clip%00", "%2e%2e%2Fclip"),
    *("a" * 300, "clip;x", "%C3%A9", "rerank-v3.5", "%0d%0aX-Model:%20x", "*", "%FF", "m"),
]


@pytest.mark.parametrize("name", UNKNOWN)
@pytest.mark.parametrize("route", ["vectorize", "v1/embeddings", ".well-known/ready", "meta"])
async def test_no_other_name_means_a_model(
    client: httpx.AsyncClient, name: str, route: str
) -> None:
    url = httpx.URL("http://test/").copy_with(raw_path=f"/m/{name}/{route}".encode())
    method = "POST" if route in {"vectorize", "v1/embeddings"} else "GET"
    answer = await client.request(method, url, json={"texts": ["a"], "input": "a"})

    assert answer.status_code == 404
    sentence = answer.json()["error"]
    sentence = sentence["message"] if isinstance(sentence, dict) else sentence
    assert sentence.endswith("here; there are: clip, minilm, rerank")
    assert len(sentence) < 200
    assert "x-model" not in answer.headers


@pytest.mark.parametrize(
    "path",
    [
        *("/m/clip%2fvectorize", "/m/clip%2F/vectorize", "/m/%2fclip/vectorize"),
        *("/m%2fclip/vectorize", "/m%2Fclip%2Fvectorize", "/m%2fx/clip/vectorize"),
        *("/m/clip%2fx/vectorize", "/m/x%2fclip/vectorize", "//m//clip%2Fvectorize/"),
    ],
)
@pytest.mark.parametrize("mounted_at", ["", "/ai"])
async def test_an_encoded_slash_separates_nothing(
    fakes: Sequence[AnyFake], path: str, mounted_at: str, tmp_path: Path
) -> None:
    async with serving(tmp_path, fakes, prefix=mounted_at, default_model="clip") as client:
        url = httpx.URL("http://test/").copy_with(raw_path=f"{mounted_at}{path}".encode())
        answer = await client.post(url, json={"texts": ["a"]})

    assert answer.status_code == 404
    assert answer.json()["error"].endswith("here; there are: clip, minilm, rerank")
    assert "%2F" in answer.json()["error"]
    assert "x-model" not in answer.headers


async def test_an_encoded_slash_in_an_alias_is_a_slash(client: httpx.AsyncClient) -> None:
    for path in ("/v1/models/org%2fclip", "/v1/models/org/clip"):
        url = httpx.URL("http://test/").copy_with(raw_path=path.encode())
        assert (await client.get(url)).json()["id"] == "org/clip"


@pytest.mark.parametrize("path", ["/m", "/m/", "/mclip", "/m/clip/nothing", "/clip/vectorize"])
async def test_other_paths_are_no_routes(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.post(path, json={})).status_code == 404


async def test_errors_below_a_name_have_the_shape_of_their_path(client: httpx.AsyncClient) -> None:
    of_openai = await client.post("/m/clip/v1/embeddings", json={})
    of_cohere = await client.post("/m/rerank/v2/rerank", json={})
    wrong_method = await client.get("/m/clip/vectorize")

    assert of_openai.json()["error"]["code"] == "body"
    assert "message" in of_cohere.json()
    assert (wrong_method.status_code, wrong_method.headers["allow"]) == (405, "POST")


async def test_it_may_be_mounted_below_a_prefix(fakes: Sequence[AnyFake], tmp_path: Path) -> None:
    async with serving(tmp_path, fakes, prefix="/ai", default_model="clip") as client:
        answer = await client.post("/ai/m/minilm/vectorize", json={"texts": ["a"]})
        described = (await client.get("/ai/m/minilm/openapi.json")).json()
        of_all = (await client.get("/ai/openapi.json")).json()

    np.testing.assert_array_equal(text_of(answer), Texts("minilm").vector_of("a"))
    assert described["servers"] == [{"url": "/ai/m/minilm"}]
    servers = ["/ai", "/ai/m/clip", "/ai/m/minilm", "/ai/m/rerank"]
    assert [one["url"] for one in of_all["servers"]] == servers


# --- without a name


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/vectorize", {"texts": ["a"], "images": [IMAGE]}, "clip"),
        ("/vectors", {"text": "a"}, "minilm"),
        ("/v1/embeddings", {"input": "a"}, "clip"),
        ("/api/embed", {"input": "a"}, "minilm"),
        ("/api/embeddings", {"prompt": "a"}, "minilm"),
        ("/embed", {"inputs": "a"}, "minilm"),
        ("/", {"inputs": "a"}, "minilm"),
        ("/rerank", PAIR, "rerank"),
        ("/v2/rerank", PAIR, "rerank"),
        ("/v1/ranking", {"query": {"text": "q"}, "passages": [{"text": "d"}]}, "rerank"),
    ],
)
async def test_each_route_has_a_default(
    client: httpx.AsyncClient, path: str, body: Any, name: str
) -> None:
    answer = await client.post(path, json=body)

    assert (answer.status_code, answer.headers["x-model"]) == (200, name)


@pytest.mark.parametrize(
    ("models", "default", "fault"),
    [
        ([Named, Texts], "", "answer POST /v1/embeddings: name the model .*: a or b"),
        ([Named, Named], "", "answer POST /vectorize"),
        ([Texts, Texts], "", "answer POST /vectorize"),
        ([Scores, Scores], "", "answer POST /rerank"),
        ([Named, Scores, Scores], "a", "answer POST /rerank: .*: b or c"),
        ([Named, Texts], "c", "DEFAULT_MODEL: there is no model 'c'; there are: a, b"),
        ([Named, Texts], "A", "there is no model 'A'"),
    ],
)
async def test_where_several_models_fit_one_must_be_the_default(
    models: Sequence[type[AnyFake]], default: str, fault: str, tmp_path: Path
) -> None:
    fakes: list[AnyFake] = [kind(name) for kind, name in zip(models, "abc", strict=False)]
    loaded: list[str] = []

    async def before_load(name: str) -> None:
        loaded.append(name)

    with pytest.raises(ConfigurationError, match=fault):
        async with serving(tmp_path, fakes, before_load=before_load, default_model=default):
            pass

    assert not loaded  # models take minutes


async def test_several_defaults_are_each_of_the_routes_that_they_fit(tmp_path: Path) -> None:
    fakes: list[AnyFake] = [
        Named("a"),
        Named("b"),
        Texts("c"),
        Texts("d"),
        Scores("e"),
        Scores("f"),
    ]
    async with serving(tmp_path, fakes, default_model="d,f,b") as client:
        answers = [
            await client.post("/vectorize", json={"texts": ["a"]}),
            await client.post("/vectors", json={"text": "a"}),
            await client.post("/v1/embeddings", json={"input": "a"}),
            await client.post("/rerank", json=PAIR),
        ]

    assert [answer.headers["x-model"] for answer in answers] == ["b", "d", "d", "f"]


async def test_where_no_model_fits_the_answer_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path, [Named("a"), Texts("b")], default_model="a") as client:
        answer = await client.post("/rerank", json=PAIR)

    assert answer.status_code == 422
    assert "ask a reranker" in answer.json()["error"]


async def test_one_model_in_a_folder_of_its_own_answers_everything(tmp_path: Path) -> None:
    async with serving(tmp_path, [Texts("minilm")]) as client:
        answers = [
            await client.post(path, json={"input": "a", "texts": ["a"], "model": "any"})
            for path in ("/v1/embeddings", "/vectorize", "/m/minilm/v1/embeddings")
        ]
        unknown = await client.post("/m/clip/vectorize", json={"texts": ["a"]})

    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-model"] for answer in answers} == {"minilm"}
    assert unknown.status_code == 404


# --- the body


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v1/embeddings", {"input": "a", "model": "minilm"}, "minilm"),
        ("/v1/embeddings", {"input": "a", "model": "clip"}, "clip"),
        ("/v1/embeddings", {"input": "a", "model": "text-embedding-3-small"}, "minilm"),
        ("/v1/embeddings", {"input": "a", "model": "org/clip"}, "clip"),
        ("/v1/embeddings", {"input": "a", "model": None}, "clip"),
        ("/v1/embeddings", {"input": "a", "model": ""}, "clip"),
        ("/api/embed", {"input": "a", "model": "clip"}, "clip"),
        ("/api/embed", {"input": "a", "model": "minilm:latest"}, "minilm"),
        ("/api/embed", {"input": "a", "model": "org/clip:latest"}, "clip"),
        ("/vectorize", {"texts": ["a"], "model": "minilm"}, "minilm"),
        ("/v2/rerank", {**PAIR, "model": "rerank-v3.5"}, "rerank"),
        ("/rerank", {**PAIR, "model": "rerank"}, "rerank"),
        ("/m/minilm/v1/embeddings", {"input": "a", "model": "any"}, "minilm"),
        ("/m/minilm/v1/embeddings", {"input": "a", "model": "clip"}, "minilm"),
    ],
)
async def test_the_body_names_a_model(
    client: httpx.AsyncClient, path: str, body: Any, name: str
) -> None:
    answer = await client.post(path, json=body)

    assert (answer.status_code, answer.headers["x-model"]) == (200, name)
    if body.get("model") and "model" in answer.json():
        assert answer.json()["model"] == body["model"]


async def test_it_does_so_in_a_body_that_only_python_reads(client: httpx.AsyncClient) -> None:
    body = '{"x": NaN, "y": "\\ud800", "input": "a", "model": "minilm"}'
    answer = await client.post("/v1/embeddings", content=body)
    utf16 = await client.post(
        "/v1/embeddings", content=json.dumps({"input": "a", "model": "minilm"}).encode("utf-16")
    )

    assert answer.headers["x-model"] == utf16.headers["x-model"] == "minilm"


@pytest.mark.parametrize("name", ["any", "Minilm", "../minilm", "a" * 300, "/m/clip", "minilm\0"])
@pytest.mark.parametrize("path", ["/v1/embeddings", "/vectorize", "/v2/rerank", "/api/embed"])
async def test_a_name_that_is_none_is_a_404_with_the_list(
    client: httpx.AsyncClient, path: str, name: str
) -> None:
    asked = {"input": "a", "texts": ["a"], **PAIR, "model": name}
    answer = await client.post(path, json=asked)

    assert answer.status_code == 404
    assert "there are: clip, minilm, rerank" in answer.text
    assert len(answer.text) < 300


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/embeddings", {"input": "a", "model": "rerank"}, 400),
        ("/vectorize", {"texts": ["a"], "model": "rerank"}, 422),
        ("/rerank", {**PAIR, "model": "clip"}, 422),
        ("/v2/rerank", {**PAIR, "model": "minilm"}, 422),
    ],
)
async def test_a_model_of_another_kind_is_refused(
    client: httpx.AsyncClient, path: str, body: Any, status: int
) -> None:
    answer = await client.post(path, json=body)

    assert answer.status_code == status
    assert "this model" in answer.text


@pytest.mark.parametrize("name", ["5", "5.5", "true", "[]", '["clip"]', "{}", "NaN"])
@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(("/vectorize", 422), ("/vectors", 422), ("/rerank", 422), ("/v2/rerank", 422)),
        *(("/v1/embeddings", 400), ("/api/embed", 400), ("/embed", 422), ("/v1/ranking", 422)),
    ],
)
async def test_a_name_that_is_no_text_is_refused(
    client: httpx.AsyncClient, path: str, status: int, name: str
) -> None:
    answer = await client.post(path, content=f'{{"texts": ["a"], "model": {name}}}')

    assert answer.status_code == status
    assert "model: expected a string" in answer.text
    assert "x-model" not in answer.headers


async def test_a_model_alone_reads_its_name_only_where_the_api_has_one(tmp_path: Path) -> None:
    """The containers that this one replaces ignore fields that they do not know."""
    body = {"text": "a", "input": "a", "inputs": "a", "query": "a", "model": 5}
    async with serving(tmp_path, [Texts("minilm")]) as client:
        statuses = {
            path: (await client.post(path, json=body)).status_code
            for path in ("/vectorize", "/vectors", "/embed", "/v1/embeddings", "/api/embed")
        }

    assert statuses == {
        **dict.fromkeys(("/vectorize", "/vectors", "/embed"), 200),
        **dict.fromkeys(("/v1/embeddings", "/api/embed"), 400),
    }


@pytest.mark.parametrize("body", ['{"model": 1, "input": "a"}', '{"model": "minilm", "input": ['])
async def test_a_body_that_cannot_be_read_is_no_question_of_the_model(
    client: httpx.AsyncClient, body: str
) -> None:
    assert (await client.post("/v1/embeddings", content=body)).status_code == 400


@pytest.mark.parametrize(
    ("aliases", "fault"),
    [
        ("x=nothing", "MODEL_ALIASES: there is no model 'nothing'"),
        ("minilm=clip", "MODEL_ALIASES: a model has this name already: minilm"),
        ("x=clip,x=minilm", "MODEL_ALIASES: set twice: x"),
    ],
)
async def test_an_alias_must_mean_a_model(
    fakes: Sequence[AnyFake], aliases: str, fault: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=fault):
        async with serving(tmp_path, fakes, default_model="clip", model_aliases=aliases):
            pass


# --- what each says


async def test_probes_are_of_one_model_or_of_all(
    client: httpx.AsyncClient, fakes: Sequence[AnyFake], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> Any:
        raise DeviceLostError("gone")

    probes = ("/.well-known/live", "/.well-known/ready", "/health")
    before = [await client.get(f"{path}{probe}") for path in ("", "/m/clip") for probe in probes]
    monkeypatch.setattr(fakes[1], "encode_text", fail)
    lost = await client.post("/m/minilm/vectorize", json={"texts": ["a"]})
    others = [
        await client.post("/m/clip/vectorize", json={"texts": ["a"]}),
        await client.post("/m/rerank/rerank", json=PAIR),
        *[await client.get(f"/m/{name}{probe}") for name in ("clip", "rerank") for probe in probes],
    ]
    failing = [await client.get(f"{path}{probe}") for path in ("", "/m/minilm") for probe in probes]
    refused = await client.post("/m/minilm/vectorize", json={"texts": ["b"]})

    assert {answer.status_code for answer in before} == {204}
    assert lost.status_code == 500
    assert {answer.status_code for answer in others} == {200, 204}
    assert {answer.status_code for answer in failing} == {503}
    assert all(answer.json()["error"].startswith("minilm: the device") for answer in failing)
    assert refused.status_code == 503


async def test_probes_need_no_token_and_strangers_learn_no_names(
    fakes: Sequence[AnyFake], tmp_path: Path
) -> None:
    async with serving(
        tmp_path, fakes, default_model="clip", authentication_allowed_tokens="a"
    ) as client:
        paths = ("/m/clip/health", "/m/clip/.well-known/live", "/m/nothing/health", "/m/clip/meta")
        answers = [await client.get(path) for path in paths]
        known = await client.get("/m/nothing/health", headers={"Authorization": "Bearer a"})

    assert [answer.status_code for answer in answers] == [204, 204, 401, 401]
    assert not any("minilm" in answer.text for answer in answers)
    assert known.status_code == 404


async def test_meta_is_of_one_model_and_lists_all(client: httpx.AsyncClient) -> None:
    paths = ("/meta", "/m/minilm/meta", "/m/rerank/meta")
    described = [(await client.get(path)).json()["service"] for path in paths]

    assert [one["model"] for one in described] == ["clip", "minilm", "rerank"]
    assert [one["modalities"] for one in described] == [["text", "image"], ["text"], ["pair"]]
    names = [[known["name"] for known in one["models"]] for one in described]
    assert names == 3 * [["clip", "minilm", "rerank"]]
    assert [one["modalities"] for one in described[0]["models"]] == [
        one["modalities"] for one in described
    ]


async def test_the_lists_of_models_have_all_names(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()["data"]
    tags = (await client.get("/api/tags")).json()["models"]
    alone = (await client.get("/m/minilm/v1/models")).json()["data"]

    names = ["clip", "minilm", "rerank", "rerank-v3.5", "text-embedding-3-small", "org/clip"]
    assert [one["id"] for one in listed] == names
    assert [one["name"] for one in tags] == [f"{name}:latest" for name in names]
    assert [one["id"] for one in alone] == ["minilm"]
    for name in names:
        assert (await client.get(f"/v1/models/{name}")).json()["id"] == name
    assert (await client.get("/v1/models/nothing")).status_code == 404
    assert (await client.get("/m/clip/v1/models/minilm")).status_code == 404


async def test_info_is_of_the_model_that_embeds(client: httpx.AsyncClient) -> None:
    paths = ("/info", "/m/rerank/info")
    kinds = [(await client.get(path)).json()["model_type"] for path in paths]

    assert [next(iter(kind)) for kind in kinds] == ["embedding", "reranker"]
    assert (await client.get("/info")).json()["model_id"] == "minilm"


async def test_settings_of_a_model_are_its_own(fakes: Sequence[AnyFake], tmp_path: Path) -> None:
    (tmp_path / "minilm/model").mkdir(parents=True)
    (tmp_path / "minilm/settings.env").write_text("MAX_TEXT_CHARS=3\nMAX_REQUEST_ITEMS=2\n")
    async with serving(tmp_path, fakes, default_model="clip") as client:
        statuses = {
            (name, len(texts)): (
                await client.post(f"/m/{name}/vectorize", json={"texts": texts})
            ).status_code
            for name in ("clip", "minilm")
            for texts in (["four"], ["a", "b", "c"])
        }

    assert {key for key, status in statuses.items() if status == 413} == {
        ("minilm", 1),
        ("minilm", 3),
    }


async def test_what_does_not_fit_one_model_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^Model a: EMBEDDINGS_DIMENSIONS=2"):
        async with serving(tmp_path, [Named("a"), Scores("b")], embeddings_dimensions=2):
            pass


async def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    app = create_app(Settings(models_dir=tmp_path), load_vectorizer)
    (tmp_path / "c/model").mkdir(parents=True)
    with pytest.raises(ModelFolderError, match=r"^Model c: .*config\.json is missing"):
        async with app.router.lifespan_context(app):
            pass


# --- the cache


async def test_equal_inputs_of_two_models_are_never_one(
    client: httpx.AsyncClient, fakes: Sequence[AnyFake]
) -> None:
    for _ in range(2):
        asked = [
            client.post(f"/m/{name}/vectorize", json={"texts": ["a"]})
            for name in ("clip", "minilm")
        ]
        answers = await asyncio.gather(*asked)
        for fake, answer in zip(fakes, answers, strict=False):
            assert isinstance(fake, Named)
            np.testing.assert_array_equal(text_of(answer), fake.vector_of("a"))
    counted = (await client.get("/metrics")).text

    assert 'inference_cache_lookups_total{model="clip",result="hit"} 1.0' in counted
    assert 'inference_cache_lookups_total{model="minilm",result="miss"} 1.0' in counted
    assert "inference_cache_vectors 2.0" in counted


async def test_the_models_share_one_budget_of_vectors(
    fakes: Sequence[AnyFake], tmp_path: Path
) -> None:
    async with serving(tmp_path, fakes, default_model="clip", vector_cache_size=3) as client:
        for name in ("clip", "minilm"):
            await client.post(f"/m/{name}/vectorize", json={"texts": ["a", "b"]})
        again = await client.post("/m/clip/vectorize", json={"texts": ["a"]})
        counted = (await client.get("/metrics")).text

    assert "inference_cache_vectors 3.0" in counted
    assert 'inference_cache_lookups_total{model="clip",result="hit"} 0.0' in counted
    assert again.status_code == 200


# --- metrics and log


async def test_every_metric_says_which_model(client: httpx.AsyncClient) -> None:
    await client.post("/vectorize", json={"texts": ["a"], "images": [IMAGE]})
    await client.post("/v1/embeddings", json={"input": "a", "model": "nothing"})
    await client.post("/m/nothing/vectorize", json={"texts": ["a"]})
    await client.post("/m/rerank/rerank", json=PAIR)
    await client.post("/m/minilm/vectorize", json={"texts": 1})
    counted = (await client.get("/metrics")).text

    for line in (
        'inference_requests_total{code="200",endpoint="/vectorize",model="clip"} 1.0',
        'inference_requests_total{code="404",endpoint="/v1/embeddings",model=""} 1.0',
        'inference_requests_total{code="404",endpoint="/vectorize",model=""} 1.0',
        'inference_requests_total{code="422",endpoint="/vectorize",model="minilm"} 1.0',
        'inference_items_total{modality="image",model="clip"} 1.0',
        'inference_items_total{modality="pair",model="rerank"} 1.0',
        'inference_request_failures_total{model="",reason="unknown_model"} 2.0',
        'inference_request_failures_total{model="minilm",reason="body"} 1.0',
        'inference_batch_items_sum{modality="pair",model="rerank"} 1.0',
        'inference_queue_items{modality="text",model="minilm"} 0.0',
    ):
        assert line in counted
    values = set(re.findall(r'[{,]model="([^"]*)"', counted))
    assert values == {"", "clip", "minilm", "rerank"}
    with_model = {
        re.split(r"[{ ]", line)[0]
        for line in counted.splitlines()
        if line.startswith("inference_") and "model=" in line
    }
    without = {
        re.split(r"[{ ]", line)[0]
        for line in counted.splitlines()
        if line.startswith("inference_") and "model=" not in line
    }
    assert with_model.isdisjoint(without)
    assert without == {
        *("inference_build_info", "inference_queue_bytes", "inference_observer_failures_total"),
        "inference_cache_vectors",
    }


async def test_the_log_says_which_model(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="web.logs")
    await client.post("/m/minilm/vectorize", json={"texts": ["a"]})
    await client.post("/v1/embeddings", json={"input": "a"})
    lines = [record for record in caplog.records if record.name == "web.logs"]

    assert [record.__dict__["model"] for record in lines] == ["minilm", "clip"]
    assert "POST /vectorize: 200" in lines[0].getMessage()
    assert ", model minilm, request" in lines[0].getMessage()


async def test_openapi_lists_a_server_for_each_model(client: httpx.AsyncClient) -> None:
    of_all = (await client.get("/openapi.json")).json()
    of_one = (await client.get("/m/rerank/openapi.json")).json()

    servers = ["/", "/m/clip", "/m/minilm", "/m/rerank"]
    assert [one["url"] for one in of_all["servers"]] == servers
    assert of_one["servers"] == [{"url": "/m/rerank"}]
    assert {"/vectorize", "/rerank"} <= of_all["paths"].keys()
    assert "404" in of_all["paths"]["/vectorize"]["post"]["responses"]

"""sentence-transformers models of texts only, beside those of the golden data."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router

from backends.embed import embed, embed_all
from backends.folder import detect
from backends.model import EncodeParams, ModelOptions, Runtime
from backends.preprocessing.prompts import Prompts
from backends.replicas import load_replica
from errors import ModelFolderError
from tests.golden_cases import GOLDEN
from tests.golden_texts import GOLDEN_TEXTS, text_model
from tests.service import running


def without_its_prompt(snapshot: Path) -> None:
    path = snapshot / "1_Pooling/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "include_prompt": False}))


def of_two_networks(snapshot: Path) -> None:
    modules = list(SentenceTransformer(str(snapshot), device="cpu"))
    shutil.rmtree(snapshot)
    router = Router.for_query_document(query_modules=modules, document_modules=modules)
    SentenceTransformer(modules=[router], device="cpu").save(str(snapshot))


def changed(
    folder: Path, change: Callable[[Path], None], name: str = "sentence_transformers"
) -> Path:
    shutil.copytree(GOLDEN_TEXTS / name, folder, dirs_exist_ok=True)
    (snapshot,) = folder.glob("model/models--*/snapshots/*")
    change(snapshot)
    return folder


@pytest.mark.parametrize(
    ("change", "reason"),
    [(without_its_prompt, "leaves the prompt out"), (of_two_networks, "networks of their own")],
)
def test_a_model_that_needs_more_than_a_text_is_refused_and_not_served_wrongly(
    change: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelFolderError, match=reason):
        load_replica(detect(changed(tmp_path, change)), ModelOptions())


def test_one_whose_tokenizer_pads_on_the_left_has_the_same_vectors(tmp_path: Path) -> None:
    def pad_left(snapshot: Path) -> None:
        path = snapshot / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "padding_side": "left"}))

    texts = ["a cat", "two dogs on a mat", ""]
    left = load_replica(detect(changed(tmp_path, pad_left)), ModelOptions()).towers["text"]
    right = text_model("sentence_transformers").towers["text"]

    assert (embed(left, texts) == embed(right, texts)).all()


def test_a_long_text_is_cut_with_its_prompt() -> None:
    tower = text_model("sentence_transformers").towers["text"]
    (plain,) = embed_all(tower, ["a " * 254])  # of 256 tokens two are special
    (asked,) = embed_all(tower, ["a " * 254], EncodeParams(task="query"))

    assert (plain.tokens, plain.truncated) == (256, False)
    assert (asked.tokens, asked.truncated) == (256, True)


TEXTS = ["a cat", "two dogs on a mat", "the moon, full and bright"]


def cut_to(dimensions: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        config = path / "config_sentence_transformers.json"
        described = json.loads(config.read_text()) if config.is_file() else {}
        config.write_text(json.dumps({**described, "truncate_dim": dimensions}))

    return change


@pytest.mark.usefixtures("converting_here")
@pytest.mark.parametrize("runtime", ["torch", "openvino"])
@pytest.mark.parametrize("name", ["sentence_transformers", "sentence_transformers_t5", "model2vec"])
def test_vectors_are_cut_where_the_folder_says_so(
    name: str, runtime: Runtime, tmp_path: Path
) -> None:
    folder = changed(tmp_path, cut_to(6), name)
    (snapshot,) = folder.glob("model/models--*/snapshots/*")
    library = SentenceTransformer(
        str(snapshot), device="cpu", model_kwargs={"dtype": torch.float32}
    )
    model = load_replica(detect(folder), ModelOptions(runtime=runtime))

    expected = library.encode_document(TEXTS, normalize_embeddings=True)
    assert model.info.dimensions == expected.shape[1] == 6
    np.testing.assert_allclose(embed(model.towers["text"], TEXTS), expected, atol=1e-5)
    assert model.info.runtime == ("numpy" if name == "model2vec" else runtime)


@pytest.mark.parametrize("name", ["sentence_transformers", "model2vec"])
@pytest.mark.parametrize("dimensions", [0, -2, "6", True, 1.5])
def test_a_number_of_dimensions_that_is_none_is_reported(
    name: str, dimensions: object, tmp_path: Path
) -> None:
    with pytest.raises(
        ModelFolderError, match=r"truncate_dim in .* expected a number of dimensions"
    ):
        load_replica(detect(changed(tmp_path, cut_to(dimensions), name)), ModelOptions())


@pytest.mark.usefixtures("converting_here")
@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_texts_and_images_of_a_clip_are_cut_alike(runtime: Runtime, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "sentence_transformers_multilingual", tmp_path, dirs_exist_ok=True)
    for part in ("clip", "text"):
        cut_to(16)(tmp_path / part)
    libraries = [SentenceTransformer(str(tmp_path / part)) for part in ("text", "clip")]
    image = Image.new("RGB", (64, 64), (200, 100, 50))
    model = load_replica(detect(tmp_path), ModelOptions(runtime=runtime))

    vectors = [*embed(model.towers["text"], TEXTS), *embed(model.towers["image"], [image])]
    expected = [*libraries[0].encode(TEXTS), libraries[1].encode([image])[0]]
    assert (model.info.dimensions, model.info.runtime) == (16, runtime)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_a_clip_whose_texts_alone_are_cut_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(GOLDEN / "sentence_transformers_multilingual", tmp_path, dirs_exist_ok=True)
    cut_to(16)(tmp_path / "text")
    load_replica(detect(tmp_path), ModelOptions())

    assert "Texts have 16 dimensions and images 48" in caplog.text


@pytest.mark.usefixtures("converting_here")
def test_a_conversion_that_did_not_cut_is_not_used(tmp_path: Path) -> None:
    folder = changed(tmp_path, lambda _: None)
    load_replica(detect(folder), ModelOptions(runtime="openvino"))
    (path,) = folder.glob("converted/*/model.json")
    described = json.loads(path.read_text())
    described["shown"]["dimensions"] = 6
    path.write_text(json.dumps(described))

    assert load_replica(detect(folder), ModelOptions(runtime="openvino")).info.runtime == "torch"


def test_only_the_prompts_that_its_library_would_take_are_taken() -> None:
    prompts = Prompts.from_json({"query": "q: ", "passage": "p: ", "document": None})

    assert prompts == Prompts("q: ", "")


@pytest.mark.parametrize(
    ("name", "text", "is_cut"),
    [
        ("bert", "One is short. " + "and on " * 600 + ". The last.", True),
        ("bert", "Each of them is short. " * 6000, False),
        ("model2vec", "and on " * 600, False),  # it reads a text of any length
    ],
)
def test_a_text_of_sentences_is_named_if_one_of_them_is_cut(
    name: str, text: str, is_cut: bool, tmp_path: Path
) -> None:
    with running(tmp_path / "log", MODELS_DIR=GOLDEN_TEXTS / name) as service:
        answers = [
            httpx.post(f"http://127.0.0.1:{service.port}/vectors", json={"text": text})
            for _ in range(2)
        ]

    assert [answer.headers.get("x-truncated") for answer in answers] == [
        ("0" if is_cut else None)
    ] * 2

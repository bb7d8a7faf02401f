"""Models of texts only give the vectors of the reference's text container."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from backends.embed import embed
from backends.folder import detect
from backends.load import options_for
from backends.model import EncodeParams, ModelOptions, Precision, Runtime
from backends.replicas import load_replica
from backends.text_folder import max_tokens
from config import Settings
from errors import InvalidInputError
from tests.golden_cases import EVERY_RUNTIME, Case, assert_same
from tests.golden_texts import (
    DIRECT,
    DPR,
    ENCODERS,
    GOLDEN_TEXTS,
    NETWORKS,
    SENTENCE_TRANSFORMERS,
    recorded_meta,
    text_cases,
    text_model,
    vector_of,
)
from tests.onnx_weights import unquantized
from tests.warned import warnings_of

WAYS = [*((name, False) for name in NETWORKS), *((name, True) for name in DIRECT)]
EVERY_WAY = pytest.mark.parametrize(
    ("name", "direct"), WAYS, ids=[name + ".direct" * direct for name, direct in WAYS]
)
EVERY_ENCODER = pytest.mark.parametrize("name", ENCODERS)
EVERY_NETWORK = pytest.mark.parametrize("name", NETWORKS)


@EVERY_RUNTIME
@EVERY_WAY
def test_every_family_gives_the_recorded_vectors(name: str, direct: bool, runtime: Runtime) -> None:
    model = text_model(name, runtime, direct)

    assert model.info.runtime == runtime
    for case in text_cases(f"{name}.direct" if direct else name):
        assert_same(vector_of(model, case), Case(case.text, case.vector))


@EVERY_RUNTIME
@EVERY_NETWORK
def test_a_texts_vector_does_not_depend_on_its_batch_mates(name: str, runtime: Runtime) -> None:
    tower = text_model(name, runtime).towers["text"]
    texts = [case.text for case in text_cases(name)]
    alone = [embed(tower, [text])[0] for text in texts]

    order = random.Random(7).sample(range(len(texts)), len(texts))
    together = embed(tower, [texts[place] for place in order])

    np.testing.assert_allclose(together, [alone[place] for place in order], rtol=0, atol=1e-5)


def test_model2vec_gives_the_recorded_vectors_whole_and_cut() -> None:
    model = text_model("model2vec")

    assert model.info.cuts
    for case in text_cases("model2vec"):
        vector = vector_of(model, case)
        if case.text.strip():
            assert_same(vector, Case(case.text, case.vector))
        else:  # a text without a word has no direction
            assert not vector.any()
            assert vector.shape == case.vector.shape


@EVERY_RUNTIME
def test_an_onnx_file_is_computed_as_it_is_stored_whatever_else_is_asked_for(
    runtime: Runtime,
) -> None:
    model = text_model("onnx", runtime)

    assert (model.info.runtime, model.info.precision) == ("openvino", "int8")
    assert not model.info.cuts
    for case in text_cases("onnx"):
        vector = vector_of(model, case).astype(np.float64)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
        assert vector @ case.vector >= 0.9999  # the recorded ones are of length 1 as well


@pytest.mark.parametrize(("name", "used"), [("onnx", "int8"), ("model2vec", "float32")])
def test_a_model_of_one_precision_says_that_another_is_not_to_be_had(
    name: str, used: Precision, caplog: pytest.LogCaptureFixture
) -> None:
    wanted: tuple[Precision | None, ...] = (None, "float32", "bfloat16", "int8")
    folder = detect(GOLDEN_TEXTS / name)
    refused = [load_replica(folder, ModelOptions(precision=one)).info.refused for one in wanted]

    assert refused == [
        f"PRECISION={one}: this model is computed in one precision alone, so {used} is used"
        if one not in (None, used)
        else ""
        for one in wanted
    ]
    assert warnings_of(caplog) == list(filter(None, refused))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose model the recipe of the ONNX images reads; it is converted once."""
    root = tmp_path_factory.mktemp("recipe")
    unquantized(root / "model")
    return root


@pytest.mark.usefixtures("converting_here")
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_recipe_of_the_onnx_images_gives_about_what_their_file_gives(
    precision: Precision, recipe: Path
) -> None:
    """8 bits are not the same 8 bits here and there, so as near as two of them come."""
    model = load_replica(detect(recipe), ModelOptions(runtime="openvino", precision=precision))

    assert (model.info.runtime, model.info.precision) == ("openvino", precision)
    for case in text_cases("onnx"):
        vector = vector_of(model, case).astype(np.float64)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
        assert vector @ case.vector >= 0.999


def test_it_is_in_8_bits_unless_something_else_is_asked_for(recipe: Path) -> None:
    folder = detect(recipe)

    assert options_for(folder, Settings()).precision == "int8"
    assert options_for(folder, Settings(precision="float32")).precision == "float32"


@pytest.mark.parametrize(
    ("stated", "positions", "read"),
    [
        (256, 512, 256),
        (10**30, 300, 300),
        (None, 300, 300),
        (10**30, None, 512),
        (8192, 8194, 8192),
    ],
)
def test_it_is_cut_where_the_tokenizer_or_the_model_says_or_at_512(
    stated: int | None, positions: int | None, read: int
) -> None:
    assert max_tokens(stated, positions) == read


def test_an_onnx_folder_whose_tokenizer_says_no_length_is_served(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN_TEXTS / "onnx", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "model/tokenizer_config.json"
    said = json.loads(path.read_text())
    del said["model_max_length"]
    path.write_text(json.dumps(said))
    model = load_replica(detect(tmp_path), ModelOptions(runtime="openvino"))

    case = text_cases("onnx")[0]
    np.testing.assert_array_equal(vector_of(model, case), vector_of(text_model("onnx"), case))


def test_its_texts_share_no_pass_as_their_scales_would_be_shared() -> None:
    tower = text_model("onnx").towers["text"]
    texts = list(dict.fromkeys(case.text for case in text_cases("onnx")))

    together = embed(tower, texts)

    np.testing.assert_array_equal(together, [embed(tower, [text])[0] for text in texts])


@pytest.mark.parametrize("name", [*ENCODERS, *DPR])
@pytest.mark.parametrize("pooling", ["masked_mean", "cls"])
def test_a_blank_text_is_read_in_one_piece(name: str, pooling: str) -> None:
    split, direct = (text_model(name, direct=on).towers["text"] for on in (False, True))
    blank = ["", "     ", "\n\t"]

    vectors = embed(split, blank, EncodeParams(pooling))

    np.testing.assert_array_equal(vectors, embed(direct, blank, EncodeParams(pooling)))
    assert np.isfinite(vectors).all()


@EVERY_ENCODER
def test_a_pooling_that_no_encoder_knows_is_the_clients_fault(name: str) -> None:
    with pytest.raises(InvalidInputError, match="'max'; this model knows masked_mean and cls"):
        text_model(name).towers["text"].processor.resolve(EncodeParams("max"))


def test_only_parameters_that_a_family_reads_are_kept() -> None:
    asked = EncodeParams("cls", "query")
    kept = {
        name: text_model(name).towers["text"].processor.resolve(asked)
        for name in ("bert", "prefixes", "model2vec", "dpr_context", *SENTENCE_TRANSFORMERS)
    }

    assert kept == {
        "bert": EncodeParams("cls"),
        "prefixes": asked,
        "model2vec": EncodeParams(),
        "dpr_context": EncodeParams(),
        "sentence_transformers": EncodeParams(task="query"),
        "sentence_transformers_prefixes": EncodeParams(task="query"),
        "sentence_transformers_qwen3": EncodeParams(task="query"),
        "sentence_transformers_t5": EncodeParams(),
        "flan_t5": EncodeParams(),
    }


@pytest.mark.parametrize("name", [*NETWORKS, "model2vec", "onnx"])
def test_meta_holds_what_the_reference_tells_of_a_model(name: str) -> None:
    config, recorded = text_model(name).info.config, recorded_meta(name)

    assert config.keys() == recorded.keys()
    assert config["model_path"] == "./models/model"
    model = config["model"]
    assert isinstance(model, dict)
    for key in ("model_type", "hidden_size", "vocab_size", "architectures"):
        assert model.get(key) == recorded["model"].get(key)


@EVERY_RUNTIME
def test_dpr_averages_all_sentences_as_trained(runtime: Runtime) -> None:
    texts = ["The first sentence. The second one. And a third!", "A lone one."]
    trained, reference = (
        embed(text_model("dpr_question", runtime, mode=mode).towers["text"], texts)
        for mode in ("trained", "reference")
    )
    sentences = ["The first sentence.", "The second one.", "And a third!"]
    alone = embed(text_model("dpr_question", runtime).towers["text"], sentences)

    np.testing.assert_allclose(trained[0], alone.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(reference[0], alone[0] / 3, atol=1e-6)
    np.testing.assert_allclose(trained[1], reference[1], atol=1e-6)


def test_two_sentences_are_two_parts_and_a_long_one_is_cut() -> None:
    processor = text_model("bert").towers["text"].processor
    parts = processor.split("One  is short. Two " + "and on " * 600, EncodeParams())

    first, second = (processor.prepare(part, EncodeParams()) for part in parts.items)

    assert parts.divisor == 2
    assert (first.truncated, second.truncated) == (False, True)
    assert second.tokens == 500

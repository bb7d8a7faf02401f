"""What is loaded, and what is not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from transformers import MetaClip2Config, MetaClip2Model, PreTrainedTokenizerFast

from backends.embed import embed_all
from backends.families import transformers_models
from backends.families.sentence_transformer import same_content
from backends.folder import detect
from backends.model import EncodeParams, ModelOptions, Runtime, TextMode
from backends.replicas import load_replica
from errors import ModelFolderError
from tests.golden_cases import (
    EVERY_LAYOUT,
    EVERY_RUNTIME,
    GOLDEN,
    LAYOUTS,
    MODES,
    assert_same,
    embed_texts,
    golden_model,
    text_cases,
)


def test_equal_folders_are_loaded_once() -> None:
    shared = golden_model("sentence_transformers", "trained").info.parameters

    assert shared == golden_model("openai", "trained").info.parameters  # one CLIP of this size


def test_a_clip_beside_a_text_model_drops_its_own_text_tower() -> None:
    model = load_replica(detect(GOLDEN / "sentence_transformers_multilingual"), ModelOptions())
    clip = golden_model("sentence_transformers", "trained").info.parameters
    text_only = 62_208 + 32 * 48  # the DistilBERT and its dense layer

    assert text_only < model.info.parameters < clip + text_only - 40_000


def test_folders_that_differ_in_one_byte_are_not_the_same(tmp_path: Path) -> None:
    clip, text = (tmp_path / name for name in ("clip", "text"))
    for folder in (clip, text):
        shutil.copytree(GOLDEN / "sentence_transformers/clip", folder)
    assert same_content(clip, text)

    weights = bytearray((text / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (text / "model.safetensors").write_bytes(weights)
    assert not same_content(clip, text)


@pytest.mark.parametrize("mode", MODES)
def test_metaclip2_saved_by_its_own_class_gives_the_same_vectors(
    tmp_path: Path, mode: TextMode
) -> None:
    shutil.copytree(GOLDEN / "metaclip2", tmp_path / "models")
    path = tmp_path / "models/openai_clip"
    config = transformers_models.read_config(path)
    config["model_type"] = "metaclip_2"
    MetaClip2Model.from_pretrained(path, config=MetaClip2Config.from_dict(config)).save_pretrained(
        path
    )
    model = load_replica(detect(tmp_path / "models"), ModelOptions(text_mode=mode))

    assert transformers_models.read_config(path)["model_type"] == "metaclip_2"
    for case in text_cases("metaclip2", mode):
        assert_same(embed_texts(model, [case.content])[0], case)


def test_another_type_of_siglip_is_refused(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "siglip", tmp_path / "models")
    config = tmp_path / "models/siglip/config.json"
    config.write_text(config.read_text().replace('"siglip",\n  "text', '"siglip3",\n  "text'))

    with pytest.raises(ModelFolderError, match=r"of type siglip3, where one of type siglip or"):
        load_replica(detect(tmp_path / "models"), ModelOptions())


FRAME = 36  # tokens, around a text of Qwen3-VL in the golden vocabulary

# The most tokens that a text may have, those that the family puts around it taken off.
PLACES_FOR_WORDS = {
    "openai": 77 - 2,
    "metaclip2": 77 - 2,
    "openclip": 77 - 2,
    "sentence_transformers": 77 - 2,
    "sentence_transformers_0_CLIPModel": 77 - 2,
    "sentence_transformers_multilingual": 128 - 2,
    "siglip": 64 - 1,
    "siglip1": 64 - 1,
    "siglip2_naflex": 64 - 1,
    "modernvbert": 8192 - 2,
    "qwen3_vl": 8192 - FRAME,
}


SPECIAL_TOKENS = {layout: 1 if layout.startswith("siglip") else 2 for layout in LAYOUTS}
SPECIAL_TOKENS["qwen3_vl"] = FRAME


@EVERY_RUNTIME
@EVERY_LAYOUT
def test_texts_that_are_cut_are_counted_and_those_that_just_fit_are_not(
    layout: str, runtime: Runtime
) -> None:
    model = golden_model(layout, "trained", runtime)
    fits = " ".join(["a"] * PLACES_FOR_WORDS[layout])  # a token each
    places = PLACES_FOR_WORDS[layout] + SPECIAL_TOKENS[layout]
    texts = ["a", fits, fits + " a", fits * 3]
    tower = model.towers["text"]
    prepared = [tower.processor.prepare(text, EncodeParams()) for text in texts]
    counts = [(one.tokens, one.truncated) for one in prepared]

    assert counts[0] == (1 + SPECIAL_TOKENS[layout], False)
    assert counts[1:] == [(places, False), (places, True), (places, True)]
    # Three of them are as long as may be, which takes seconds: the network reads one of these.
    read = embed_all(tower, [texts[0], texts[2]])
    assert [(one.tokens, one.truncated) for one in read] == [counts[0], counts[2]]
    assert model.gpu_memory() is None


def word_vectors(folder: Path) -> None:
    """A text model without a mask: its library gives it the words of all texts in one row."""
    vocabulary = PreTrainedTokenizerFast.from_pretrained(
        GOLDEN / "sentence_transformers_multilingual/text"
    ).backend_tokenizer
    torch.manual_seed(1)
    module = StaticEmbedding(vocabulary, embedding_dim=16)
    SentenceTransformer(modules=[module], device="cpu").save(str(folder))


def left_padded(folder: Path) -> None:
    """A text model whose tokenizer pads on the left, as those of decoders do."""
    shutil.copytree(GOLDEN / "sentence_transformers_multilingual/text", folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "padding_side": "left"}))


@pytest.mark.usefixtures("converting_here")
@pytest.mark.parametrize(
    ("make", "reason", "shares"),
    [
        (word_vectors, "its text model reads input_ids and offsets", False),
        (left_padded, "", True),
    ],
)
def test_a_text_model_of_its_own_kind_is_served_as_its_library_would(
    make: Callable[[Path], None],
    reason: str,
    shares: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shutil.copytree(GOLDEN / "sentence_transformers/clip", tmp_path / "clip")
    make(tmp_path / "text")
    model = load_replica(detect(tmp_path), ModelOptions(runtime="openvino"))
    texts = ["a cat", "two dogs on a mat", "a dog", ""]
    library = SentenceTransformer(str(tmp_path / "text"), device="cpu")
    expected = np.concatenate([library.encode([text]) for text in texts])

    assert model.info.runtime == ("torch" if reason else "openvino")
    assert reason in caplog.text
    np.testing.assert_allclose(embed_texts(model, texts), expected, atol=1e-6)
    prepare = model.towers["text"].processor.prepare
    buckets = [prepare(text, EncodeParams()).bucket for text in texts]
    assert (buckets[0] is not None and buckets[0] == buckets[2]) == shares

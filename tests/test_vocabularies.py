"""Tokenizers that do not belong to their network: empty ones, ids and positions that it lacks."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as Vocabulary
from tokenizers.models import WordPiece

from backends.conversion.conversion_cache import converted
from backends.embed import embed, embed_all
from backends.folder import detect
from backends.model import EncodeParams, Model, ModelOptions, Runtime
from backends.preprocessing.vocabulary import VocabularyInfo, describe_tokens, describe_vocabulary
from backends.replicas import load_replica
from errors import InvalidInputError, ModelFolderError
from tests.golden_cases import EVERY_RUNTIME, GOLDEN, LAYOUTS, golden_model
from tests.golden_texts import GOLDEN_TEXTS, NETWORKS, text_model
from tests.service import CONVERTED
from tests.test_openclip import ARCHITECTURE
from tests.warned import warnings_of

WITH_VOCABULARY = [*(layout for layout in LAYOUTS if layout != "openclip"), *NETWORKS]
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "*.model")
IMAGE_PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def folder_of(name: str) -> Path:
    return GOLDEN / name if name in LAYOUTS else GOLDEN_TEXTS / name


def without(root: Path, name: str, files: tuple[str, ...]) -> Path:
    shutil.copytree(folder_of(name), root)
    for path in [path for file in files for path in root.rglob(file)]:
        path.unlink()
    return root


@pytest.mark.parametrize("name", [*WITH_VOCABULARY, "model2vec", "onnx"])
def test_a_tokenizer_without_a_vocabulary_is_refused(name: str, tmp_path: Path) -> None:
    root = without(tmp_path / "models", name, VOCABULARIES)

    with pytest.raises(
        ModelFolderError, match=r"no vocabulary|tokenizer\.json is missing|holds tokenizer"
    ) as reported:
        load_replica(detect(root), ModelOptions())
    assert "tokenizer.json" in str(reported.value)
    assert "\n" not in str(reported.value)


def test_a_converted_model_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    options = ModelOptions(runtime="openvino", cache_dir=CONVERTED)
    root = Path(shutil.copytree(converted(detect(GOLDEN / "openai"), options), tmp_path / "models"))
    path = root / "tokenizer.json"
    content = json.loads(path.read_text())
    special = {token["content"]: token["id"] for token in content["added_tokens"]}
    path.write_text(
        json.dumps({**content, "model": {**content["model"], "vocab": special, "merges": []}})
    )
    with pytest.raises(ModelFolderError, match="its tokenizer has no vocabulary, only special"):
        load_replica(detect(root), options)

    path.unlink()
    with pytest.raises(ModelFolderError, match=r"tokenizer\.json is missing"):
        load_replica(detect(root), options)


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "openclip"])
def test_an_image_processor_is_not_replaced_by_defaults(layout: str, tmp_path: Path) -> None:
    root = without(tmp_path / "models", layout, IMAGE_PROCESSORS)

    with pytest.raises(
        ModelFolderError,
        match=r"has no preprocessor_config\.json|and preprocessor_config\.json of",
    ):
        load_replica(detect(root), ModelOptions())


def test_open_clips_defaults_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = Path(shutil.copytree(GOLDEN / "openclip", tmp_path / "models"))
    load_replica(detect(root), ModelOptions())
    assert not warnings_of(caplog)
    path = root / "openclip/open_clip_config.json"
    described = json.loads(path.read_text())
    del described["preprocess_cfg"]
    path.write_text(json.dumps(described))

    load_replica(detect(root), ModelOptions())
    (warning,) = warnings_of(caplog)
    assert "does not configure how images are preprocessed" in warning
    assert "mean=(0.48145466, 0.4578275, 0.40821073)" in warning


def test_a_vocabulary_has_words_where_a_token_has_letters_and_is_not_special() -> None:
    empty = {"[PAD]": 0, "<s>": 1, "<|endoftext|>": 2, "\u2581": 3, "MASK": 4}

    assert describe_tokens(empty, {"MASK"}) == VocabularyInfo(5, has_words=False)
    assert describe_tokens({**empty, "a": 9}, {"MASK"}) == VocabularyInfo(10, has_words=True)
    assert describe_tokens({}, ()) == VocabularyInfo(0, has_words=False)


@pytest.mark.parametrize(("largest", "ids"), [(1, 2), (7, 8)])
def test_the_ids_of_a_vocabulary_are_counted_to_the_largest(largest: int, ids: int) -> None:
    vocabulary = Vocabulary(WordPiece({"[UNK]": 0, "a": largest}, unk_token="[UNK]"))

    assert describe_vocabulary(vocabulary) == VocabularyInfo(ids, has_words=True)


# The weights of tokens' embeddings, which lose their last rows, and where their number is said.
EMBEDDINGS = {
    "openai": "text_model.embeddings.token_embedding.weight",
    "openclip": "token_embedding.weight",
    "siglip1": "text_model.embeddings.token_embedding.weight",
    "siglip2_naflex": "text_model.embeddings.token_embedding.weight",
    "sentence_transformers": "text_model.embeddings.token_embedding.weight",
    "bert": "embeddings.word_embeddings.weight",
    "roberta": "embeddings.word_embeddings.weight",
    "dpr_question": "question_encoder.bert_model.embeddings.word_embeddings.weight",
    "sentence_transformers_qwen3": "embed_tokens.weight",
    "sentence_transformers_t5": "shared.weight",
    "model2vec": "embeddings",
}


def with_fewer_rows(root: Path, name: str, rows: int) -> Path:
    """A copy of a golden model, cut to the embeddings of its first tokens."""
    shutil.copytree(folder_of(name), root)
    for path in root.rglob("*.safetensors"):
        weights = load_file(path)
        if found := next((one for one in weights if one.endswith(EMBEDDINGS[name])), None):
            weights[found] = weights[found][:rows].contiguous()
            save_file(weights, path, metadata={"format": "pt"})
    for path in root.rglob("*config.json"):
        path.write_text(json.dumps(resized(json.loads(path.read_text()), rows)))
    return root


def resized(config: Any, rows: int) -> Any:
    if not isinstance(config, dict):
        return config
    said = {key: resized(value, rows) for key, value in config.items()}
    return {**said, **{key: rows for key in ("vocab_size",) if key in said}}


def largest_id(model: Model, text: str) -> int:
    """The largest id of a text that the whole model reads."""
    processor = model.towers["text"].processor
    part, *_ = processor.split(text, EncodeParams()).items
    prepared = processor.prepare(part, processor.resolve(EncodeParams()))
    return int(prepared.arrays[0][: prepared.tokens].max(initial=0))


@pytest.mark.usefixtures("converting_here")
@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        *((name, "torch") for name in EMBEDDINGS),
        *((name, "openvino") for name in ("openai", "bert", "siglip1", "sentence_transformers_t5")),
    ],
)
def test_a_text_with_an_id_that_has_no_embedding_is_refused_by_that_id(
    name: str, runtime: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = golden_model(name, "trained") if name in LAYOUTS else text_model(name)
    # CLIP's special tokens are the last ones: without their rows no text can be read.
    last = largest_id(whole, "")
    texts = [
        "a red fox",
        "the moon is full",
        "a photo of a cat",
        "dogs",
        "zebra 7",
        "\u00e9\u4e2d x",
    ]
    largest = {text: largest_id(whole, text) for text in texts}
    rows = max(last, min(largest.values())) + 1
    if rows > max(largest.values()):
        cut = detect(with_fewer_rows(tmp_path / "models", name, last))
        with pytest.raises(ModelFolderError, match="no text can be read: a token has the id"):
            load_replica(cut, ModelOptions(runtime=runtime, cache_dir=tmp_path / "cache"))
        return
    root = with_fewer_rows(tmp_path / "models", name, rows)
    model = load_replica(detect(root), ModelOptions(runtime=runtime, cache_dir=tmp_path / "cache"))

    assert model.info.runtime == ("numpy" if name == "model2vec" else runtime)
    warned = [one for one in warnings_of(caplog) if f"model has embeddings of {rows}: texts" in one]
    assert warned
    assert all("The tokenizer has" in one for one in warned)
    for text, highest in largest.items():
        if highest < rows:
            given = embed(model.towers["text"], [text])
            np.testing.assert_allclose(given, embed(whole.towers["text"], [text]), atol=1e-5)
        else:
            with pytest.raises(InvalidInputError, match=f"a token has the id {highest}, and"):
                embed(model.towers["text"], [text])


def test_a_conversion_by_itself_warns_of_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = with_fewer_rows(tmp_path / "models", "bert", 1890)
    converted(detect(root), ModelOptions(runtime="openvino", cache_dir=tmp_path / "cache"))

    (warning,) = warnings_of(caplog)
    assert "has 1900 ids, and the model has embeddings of 1890: texts with other" in warning


def test_an_onnx_file_with_fewer_rows_knows_them() -> None:
    model = load_replica(detect(GOLDEN_TEXTS / "onnx"), ModelOptions())  # of its own: it changes
    processor = model.towers["text"].processor
    with pytest.raises(ValueError, match="no text can be read"):
        processor.limit_ids(3)


# More positions than the network has.


def said_to_read(name: str, root: Path, length: int, change: Callable[[Path], None]) -> Path:
    shutil.copytree(GOLDEN_TEXTS / name, root)
    (snapshot,) = root.glob("model/models--*/snapshots/*")
    path = snapshot / "sentence_bert_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_seq_length": length}))
    change(snapshot)
    return root


def nothing_more(_snapshot: Path) -> None:
    pass


def without_a_length(snapshot: Path) -> None:
    path = snapshot / "sentence_bert_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_seq_length": None}))
    path = snapshot / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": 10**30}))


@pytest.mark.usefixtures("converting_here")
@EVERY_RUNTIME
@pytest.mark.parametrize("change", [nothing_more, without_a_length])
@pytest.mark.parametrize("name", ["sentence_transformers", "sentence_transformers_prefixes"])
def test_a_text_is_cut_where_the_positions_end(
    name: str, change: Callable[[Path], None], runtime: Runtime, tmp_path: Path
) -> None:
    root = said_to_read(name, tmp_path / "models", 4096, change)
    (config,) = root.glob("model/models--*/snapshots/*/config.json")
    described = json.loads(config.read_text())
    roberta = described["model_type"] == "xlm-roberta"
    places = described["max_position_embeddings"] - 2 * roberta
    model = load_replica(detect(root), ModelOptions(runtime=runtime, cache_dir=tmp_path / "cache"))

    assert model.info.runtime == runtime
    (short, long) = embed_all(model.towers["text"], ["a cat", "a " * 5000])
    assert (long.tokens, long.truncated) == (places, True)
    assert not short.truncated
    assert np.isfinite(long.vector).all()


def test_a_foreign_tower_of_openclip_is_cut_there_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.test_openclip import foreign

    monkeypatch.setitem(
        ARCHITECTURE, "text_cfg", {**ARCHITECTURE["text_cfg"], "context_length": 256}
    )
    root, _ = foreign.__wrapped__(tmp_path)  # type: ignore[attr-defined]
    model = load_replica(detect(root), ModelOptions())

    (long,) = embed_all(model.towers["text"], ["a cat " * 300])
    assert (long.tokens, long.truncated) == (88, True)  # of 90, two count nothing

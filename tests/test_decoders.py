"""Decoders that were trained to embed: in sentence-transformers' layout, and in a bare folder."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from transformers import AutoModel, Gemma3TextConfig, Gemma3TextModel

from backends.check import faults
from backends.embed import embed
from backends.folder import ModelFolder, detect
from backends.load import load_model
from backends.model import EncodeParams, Model, ModelOptions
from backends.replicas import load_replica
from backends.text_folder import detect_kind
from config import DownloadSettings, Settings
from errors import ModelFolderError
from fetch.hub import Snapshot
from fetch.layouts import _save_text
from fetch.plan import _lay_out_texts, plan
from tests.golden_texts import GOLDEN_TEXTS
from tests.service import CONVERTED

pytestmark = pytest.mark.usefixtures("converting_here")
(QWEN3,) = (GOLDEN_TEXTS / "sentence_transformers_qwen3/model").glob("models--*/snapshots/*")
TEXTS = ["a cat", "two dogs on a mat", " ".join(["the moon, full and bright"] * 9), "x"]


def by_openvino(root: Path) -> Model:
    model = load_replica(detect(root), ModelOptions(runtime="openvino"))
    assert model.info.runtime == "openvino"
    return model


def tiny_gemma(path: Path) -> None:
    """Write a network of EmbeddingGemma's architecture, with windows narrower than the texts."""
    torch.manual_seed(1)
    config = Gemma3TextConfig(
        vocab_size=1401,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=16,  # in all, which is 9 to either side
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        use_bidirectional_attention=True,
        max_position_embeddings=256,
    )
    Gemma3TextModel(config).save_pretrained(path)


@pytest.fixture
def gemma(tmp_path: Path) -> tuple[Path, SentenceTransformer]:
    """A folder as download.py leaves it for EmbeddingGemma, and the library's own model."""
    name, described = "google/embeddinggemma-300m", tmp_path / "model"
    snapshot = described / "models--google--embeddinggemma-300m/snapshots/abc"
    shutil.copytree(QWEN3, snapshot, ignore=shutil.ignore_patterns("2_Normalize"))
    tiny_gemma(snapshot)
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (snapshot / "1_Pooling/config.json").write_text(json.dumps(pooling))
    modules = json.loads((snapshot / "modules.json").read_text())[:2]
    for number, (read, given) in enumerate([(32, 64), (64, 32)], start=2):
        path = f"{number}_Dense"
        (snapshot / path).mkdir()
        Dense(read, given, bias=False, activation_function=torch.nn.Identity()).save(
            str(snapshot / path)
        )
        of_type = "sentence_transformers.models.Dense"
        modules.append({"idx": number, "name": str(number), "path": path, "type": of_type})
    (snapshot / "modules.json").write_text(json.dumps(modules))
    prompts = {"query": "task: search result | query: ", "document": "title: none | text: "}
    described_so = {"prompts": prompts, "similarity_fn_name": "cosine"}
    (snapshot / "config_sentence_transformers.json").write_text(json.dumps(described_so))
    (described / "model_name").write_text(name)
    shutil.copyfile(snapshot / "config.json", described / "model_config")
    return tmp_path, SentenceTransformer(str(snapshot), device="cpu")


def test_embedding_gemma_is_converted_and_has_the_vectors_of_its_library(
    gemma: tuple[Path, SentenceTransformer],
) -> None:
    root, library = gemma
    texts = by_openvino(root).towers["text"]

    assert faults(detect(root)) == []

    for task, encode in (("query", library.encode_query), ("passage", library.encode_document)):
        expected = encode(TEXTS, normalize_embeddings=True)
        found = embed(texts, TEXTS, EncodeParams(task=task))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_embedding_gemma_reads_to_both_sides_within_its_window(
    gemma: tuple[Path, SentenceTransformer],
) -> None:
    """The masks that it converts with are those that transformers makes one place at a time."""
    _, library = gemma
    network = library[0].model
    window: int = network.config.sliding_window  # to one side, the token itself counted
    ids = torch.arange(2, 34)[None]
    changed = ids.clone()
    changed[0, -1] = 40
    with torch.inference_mode():
        before, after = (
            network(input_ids=one, output_hidden_states=True).hidden_states[1]
            for one in (ids, changed)
        )
    moved = (before - after).abs().amax(-1)[0] > 1e-6

    assert 1 < window < 10
    assert moved.tolist() == [False] * (32 - window) + [True] * window


# A bare folder, as the reference's container has it for each model that it reads by AutoModel.


def bare(root: Path, network: Callable[[Path], None] | None = None) -> ModelFolder:
    """Write the tiny Qwen3, or another network, as encoders lie in `model/`."""
    (root / "model").mkdir(parents=True)
    for file in QWEN3.glob("*.*"):
        if file.is_file() and file.name not in ("modules.json", "sentence_bert_config.json"):
            shutil.copyfile(file, root / "model" / file.name)
    if network:
        network(root / "model")
    return detect(root)


@pytest.mark.parametrize("network", [None, tiny_gemma], ids=["qwen3", "gemma3_text"])
def test_a_decoder_in_a_bare_folder_is_converted_and_pooled_as_the_reference_does(
    network: Callable[[Path], None] | None, tmp_path: Path
) -> None:
    folder = bare(tmp_path, network)
    texts = by_openvino(folder.root).towers["text"]
    original = load_replica(folder, ModelOptions(runtime="torch")).towers["text"]
    library = AutoModel.from_pretrained(folder.part("model"), dtype=torch.float32).eval()

    with torch.inference_mode():
        for text in TEXTS[:2]:
            params = original.processor.resolve(EncodeParams())
            (sentence,) = original.processor.split(text, params).items
            item = original.processor.prepare(sentence, params)
            ids = torch.from_numpy(item.arrays[0][: item.tokens])  # without its padding
            states = library(input_ids=ids[None]).last_hidden_state[0]
            np.testing.assert_allclose(embed(texts, [text])[0], states.mean(0), atol=1e-5)
    np.testing.assert_allclose(embed(texts, TEXTS), embed(original, TEXTS), atol=1e-5)


def test_a_look_without_a_library_names_a_missing_weight(tmp_path: Path) -> None:
    folder = bare(tmp_path, tiny_gemma)
    path = tmp_path / "model/model.safetensors"
    weights = load_file(path)
    del weights["layers.1.mlp.up_proj.weight"]
    save_file(weights, path)

    (fault,) = faults(folder)
    assert "layers.1.mlp.up_proj.weight is missing" in fault


def of_causal_lm(root: Path) -> Path:
    path = root / "model/config.json"
    described = {**json.loads(path.read_text()), "architectures": ["Qwen3ForCausalLM"]}
    path.write_text(json.dumps(described))
    return path


def test_a_decoder_that_goes_on_with_a_text_is_refused_unless_it_was_trained_to_embed(
    tmp_path: Path,
) -> None:
    folder = bare(tmp_path)
    of_causal_lm(tmp_path)
    with pytest.raises(ModelFolderError, match="holds Qwen3ForCausalLM, which does not embed"):
        detect_kind(folder)

    shutil.copyfile(QWEN3 / "modules.json", tmp_path / "model/modules.json")
    assert detect_kind(folder) == "encoder"


def test_a_download_as_the_reference_makes_it_is_not_refused(tmp_path: Path) -> None:
    """On the hub its configuration says ForCausalLM; what AutoModel saves does not."""
    source, root = tmp_path / "hub", tmp_path / "models"
    shutil.copytree(QWEN3, source)
    config = json.loads((source / "config.json").read_text())
    described = {**config, "architectures": ["Qwen3ForCausalLM"]}
    (source / "config.json").write_text(json.dumps(described))
    wanted = plan(DownloadSettings(model_name="Qwen/Qwen3-Embedding-0.6B"))
    root.mkdir()
    snapshot = Snapshot("Qwen/Qwen3-Embedding-0.6B", "abc", source)
    sources = _lay_out_texts(wanted, snapshot, root / "model")
    _save_text(sources, root, False)

    assert detect_kind(detect(root)) == "encoder"
    assert load_replica(detect(root), ModelOptions()).info.family == "Qwen3"


def test_every_start_of_a_bare_decoder_says_that_it_is_pooled_otherwise_than_trained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bare(tmp_path / "models")
    by_openvino(tmp_path / "models")
    (converted,) = (tmp_path / "models/converted").iterdir()
    shutil.copytree(converted, tmp_path / "alone")
    told = []
    folders = (tmp_path / "models", None), (tmp_path / "alone", None)
    for root, cache in (*folders, (GOLDEN_TEXTS / "bert", CONVERTED)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            load_model(Settings(models_dir=root, runtime_cache_dir=cache))
        told.append("USE_SENTENCE_TRANSFORMERS_VECTORIZER=true" in caplog.text)

    assert told == [True, True, False]

"""Architectures of the catalogue's text models, each tiny and random, beside their library.

Of the others there are golden models, or those of tests/test_decoders.py.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from transformers import (
    GteConfig,
    GteModel,
    ModernBertConfig,
    ModernBertModel,
    NomicBertConfig,
    NomicBertModel,
    PreTrainedModel,
)

from backends.check import faults
from backends.embed import embed
from backends.folder import detect
from backends.model import EncodeParams, ModelOptions
from backends.replicas import load_replica
from tests.golden_texts import GOLDEN_TEXTS

pytestmark = pytest.mark.usefixtures("converting_here")
NAME = "org/name"
(SNAPSHOT,) = (GOLDEN_TEXTS / "sentence_transformers/model").glob("models--*/snapshots/*")
# One is longer than ModernBERT's window.
TEXTS = ["a cat", "two dogs on a mat", " ".join(["the moon, full and bright"] * 30), "x"]
SIZES = {
    "vocab_size": 1900,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_MODERN = {"local_attention": 16, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
NETWORKS: dict[str, Callable[[], PreTrainedModel]] = {
    "NomicBERT": lambda: NomicBertModel(NomicBertConfig(**SIZES)),
    "GTE": lambda: GteModel(GteConfig(**SIZES, pad_token_id=0)),
    "ModernBERT": lambda: ModernBertModel(
        ModernBertConfig(**SIZES, **_MODERN, cls_token_id=1, sep_token_id=1)
    ),
}


def laid_out(root: Path) -> Path:
    """Write what download.py writes beside a hub cache; return where that belongs."""
    (root / "model").mkdir()
    (root / "model/model_name").write_text(NAME)
    (root / "model/model_config").write_text("{}")
    return root / "model/models--org--name/snapshots/abc"


@pytest.fixture(params=NETWORKS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, SentenceTransformer]:
    """A folder as download.py leaves it, and the library's own model; it pools the first token."""
    snapshot = laid_out(tmp_path)
    shutil.copytree(SNAPSHOT, snapshot)
    torch.manual_seed(1)
    NETWORKS[request.param]().save_pretrained(snapshot)
    pooling = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True}
    pooling["pooling_mode_mean_tokens"] = False
    (snapshot / "1_Pooling/config.json").write_text(json.dumps(pooling))
    prompts = {"prompts": {"query": "query: ", "document": ""}}
    (snapshot / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return tmp_path, SentenceTransformer(str(snapshot), device="cpu")


def test_it_is_converted_and_has_the_vectors_of_its_library(
    made: tuple[Path, SentenceTransformer],
) -> None:
    """So has torch, as the parity check compares the two."""
    root, library = made
    model = load_replica(detect(root), ModelOptions(runtime="openvino"))

    assert model.info.runtime == "openvino"
    assert faults(detect(root)) == []
    for task, encode in (("query", library.encode_query), ("passage", library.encode_document)):
        expected = [encode([text], normalize_embeddings=True)[0] for text in TEXTS]
        found = embed(model.towers["text"], TEXTS, EncodeParams(task=task))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_table_in_a_folder_of_its_own_is_read(tmp_path: Path) -> None:
    """static-retrieval-mrl has its table in 0_StaticEmbedding, and no config.json beside it."""
    snapshot = laid_out(tmp_path)
    files = snapshot / "0_StaticEmbedding"
    files.mkdir(parents=True)
    shutil.copyfile(SNAPSHOT / "tokenizer.json", files / "tokenizer.json")
    rows = Tokenizer.from_file(str(files / "tokenizer.json")).get_vocab_size()
    torch.manual_seed(1)
    save_file({"embedding.weight": torch.randn(rows, 16)}, files / "model.safetensors")
    of_type = "sentence_transformers.models.StaticEmbedding"
    modules = [{"idx": 0, "name": "0", "path": files.name, "type": of_type}]
    (snapshot / "modules.json").write_text(json.dumps(modules))
    library = SentenceTransformer(str(snapshot), device="cpu")
    model = load_replica(detect(tmp_path), ModelOptions())

    assert (model.info.family, model.info.runtime) == ("model2vec", "numpy")
    expected = library.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(embed(model.towers["text"], TEXTS), expected, atol=1e-5)

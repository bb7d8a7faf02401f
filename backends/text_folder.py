"""Detects the kind of text model in `model/`, in the layout of Weaviate's text container.

That container, the reference, has a `download.py`. It saves encoders with `config.json`, as
transformers does. It saves all other models as a hub cache, next to files with their name and type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from backends.folder import ModelFolder
from backends.hub_cache import hub_snapshot, read_marker
from backends.json_files import read_json
from errors import ModelFolderError

TextKind = Literal[
    "encoder", "dpr", "onnx", "onnx_recipe", "sentence_transformers", "model2vec", "reranker"
]
ONNX = "model_quantized.onnx"
# Values of `model_type` that are text encoders. Models of other types need more inputs than ids and
# a mask, or generate text.
ENCODERS = (
    *("albert", "bert", "big_bird", "camembert", "convbert", "data2vec-text", "deberta"),
    *("deberta-v2", "distilbert", "dpr", "electra", "ernie", "esm", "eurobert", "flaubert"),
    *("funnel", "gte", "ibert", "jina_embeddings_v3", "longformer", "luke", "megatron-bert"),
    *("mobilebert", "modernbert", "mpnet", "mra", "nomic_bert", "nystromformer", "rembert"),
    *("roberta", "roberta-prelayernorm", "roc_bert", "roformer", "squeezebert", "xlm"),
    *("xlm-roberta", "xlm-roberta-xl", "xlnet", "xmod", "yoso"),
)
# `model_type` of decoders that may be trained to embed -> name of the family.
DECODERS = {"gemma3_text": "Gemma 3", "qwen3": "Qwen3"}
# Endings of names in `architectures`, for models trained for other tasks than embedding.
_GENERATES = "ForCausalLM"
_OTHER_TASKS = (
    *("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"),
    _GENERATES,
)
_NO_LIMIT = 10**20  # tokens; transformers uses 10**30 for no limit
_USUAL_LIMIT = 512  # tokens; used if neither tokenizer nor model has a limit
_SCORING = "ForSequenceClassification"  # ending of transformers' reranker classes


@dataclass(frozen=True)
class TextFolder:
    """The folder `model/` of a model folder."""

    path: Path

    @classmethod
    def open(cls, folder: ModelFolder) -> TextFolder:
        """Return `model/` of a model folder of the family `text`."""
        return cls(folder.part("model"))

    @property
    def kind(self) -> TextKind:
        """The kind of the model.

        Raises:
            ModelFolderError: the model is missing, incomplete, or does not embed texts.
        """
        is_onnx = (self.path / ONNX).is_file()
        if not is_onnx and (self.path / "model_name").is_file():
            # The package's name in a class's full name differs between versions.
            first = [module["type"].rpartition(".")[2] for module in self.modules[:1]]
            return "model2vec" if first == ["StaticEmbedding"] else "sentence_transformers"
        config = read_json(self.path / "config.json", dict)
        if not is_onnx and is_reranker(config):
            return "reranker"
        if reason := why_no_encoder(config, self.path):
            raise ModelFolderError(f"{self.path.absolute()} holds {reason}")
        if is_onnx:
            return "onnx"
        if read_marker(self.path / "onnx_runtime") == "true":  # written by download.py
            return "onnx_recipe"
        return "dpr" if config["model_type"] == "dpr" else "encoder"

    @property
    def snapshot(self) -> Path:
        """The model's snapshot folder in the hub cache.

        Raises:
            ModelFolderError: the snapshot is missing.
        """
        name = read_marker(self.path / "model_name") or ""
        if found := hub_snapshot(self.path, name):
            return found
        raise ModelFolderError(f"{self.path.absolute()} holds no hub cache of {name}")

    @property
    def model_config(self) -> dict[str, Any]:
        """The configuration that was stored when the model was downloaded."""
        return read_json(self.path / "model_config", dict)

    @property
    def modules(self) -> list[dict[str, Any]]:
        """The entries of `modules.json`; empty if there is no such file."""
        path = self.snapshot / "modules.json"
        return read_json(path, list) if path.is_file() else []


def why_no_encoder(config: Mapping[str, Any], path: Path) -> str | None:
    """Return why a model is not a text encoder; None if it is a text encoder.

    Args:
        config: the model's `config.json`.
        path: the model's folder. If it holds `modules.json`, a decoder was trained to embed, even
            if its `architectures` say ForCausalLM.
    """
    types = (*ENCODERS, *DECODERS)
    kind, architectures = config.get("model_type"), config.get("architectures") or []
    others = [name for name in architectures if str(name).endswith(_OTHER_TASKS)]
    if kind in DECODERS and (path / "modules.json").is_file():
        others = [name for name in others if not str(name).endswith(_GENERATES)]
    # A model with an `auto_map` has Python code of its own.
    if not others and (kind in types or "auto_map" in config):
        return None
    found = others[0] if others else f"a model of type {kind or 'unknown'}"
    return (
        f"{found}, which does not embed texts; supported are models of these types, unless "
        f"they are {', '.join(f'...{task}' for task in _OTHER_TASKS)}: {', '.join(types)}"
    )


def detect_kind(folder: ModelFolder) -> TextKind | None:
    """Return the kind of a text model; None for other families."""
    return TextFolder.open(folder).kind if folder.family == "text" else None


def is_reranker(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration belongs to a reranker, according to its `architectures`."""
    return any(str(name).endswith(_SCORING) for name in config.get("architectures") or ())


def is_served_as_it_is(folder: ModelFolder) -> bool:
    """Return whether a model is served from its original files, without torch or conversion."""
    return detect_kind(folder) in ("model2vec", "onnx")


def reference_meta(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of the reference's `GET /meta` for this configuration."""
    return {"model": config, "model_path": "./models/model"}


def kept_dimensions(stated: object, path: Path) -> int | None:
    """Return to how many dimensions a model truncates its vectors; None for no truncation.

    Args:
        stated: `truncate_dim` of `config_sentence_transformers.json`.
        path: the model's folder, for the error.

    Raises:
        ModelFolderError: the value is invalid.
    """
    if stated is None or (type(stated) is int and stated > 0):
        return stated
    raise ModelFolderError(
        f"{path.absolute()}: truncate_dim in config_sentence_transformers.json is {stated!r}; "
        "expected a number of dimensions, 1 at least"
    )


def max_tokens(stated: int | None, positions: int | None) -> int:
    """Return the maximum number of tokens of a text, as in the reference's `-onnx` images.

    The number includes special tokens.

    Args:
        stated: the tokenizer's `model_max_length`; 10**30 means no limit.
        positions: number of the model's positions; None if unknown.
    """
    known = [length for length in (stated, positions) if length and length < _NO_LIMIT]
    return min(known, default=_USUAL_LIMIT)

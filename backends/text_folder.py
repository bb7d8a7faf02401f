"""Sole owner of what lies in a `model` folder, the text container's: which kind, and where.

Source of the layouts: the reference's `download.py`. It saves encoders as transformers does, with
`config.json`, and leaves others in a hub cache, with their name and type beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from backends.folder import ModelFolder, hub_snapshot, text_of
from errors import ModelFolderError, describe_error

TextKind = Literal[
    "encoder", "dpr", "onnx", "onnx_recipe", "sentence_transformers", "model2vec", "reranker"
]
ONNX = "model_quantized.onnx"
# The types of models in `model/` whose states of tokens are a text's vector. Others need more than
# ids and a mask, or have learnt to go on with a text.
ENCODERS = (
    *("albert", "bert", "big_bird", "camembert", "convbert", "data2vec-text", "deberta"),
    *("deberta-v2", "distilbert", "dpr", "electra", "ernie", "esm", "eurobert", "flaubert"),
    *("funnel", "gte", "ibert", "jina_embeddings_v3", "longformer", "luke", "megatron-bert"),
    *("mobilebert", "modernbert", "mpnet", "mra", "nomic_bert", "nystromformer", "rembert"),
    *("roberta", "roberta-prelayernorm", "roc_bert", "roformer", "squeezebert", "xlm"),
    *("xlm-roberta", "xlm-roberta-xl", "xlnet", "xmod", "yoso"),
)
# Types of decoders that were trained to embed, and the names of their families.
DECODERS = {"gemma3_text": "Gemma 3", "qwen3": "Qwen3"}
# What a model was trained for that is none of texts' vectors, as `architectures` says it.
_OTHER_TASKS = (
    *("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"),
    "ForCausalLM",
)
_JSON: Mapping[type, str] = {dict: "object", list: "array"}
_NO_LIMIT = 10**20  # as transformers sees it
_USUAL_LIMIT = 512  # of BERT and its relatives, where neither tokenizer nor model says one
_SCORING = "ForSequenceClassification"  # how transformers' classes of rerankers end


@dataclass(frozen=True)
class TextFolder:
    """The part `model` of a model folder."""

    path: Path

    @classmethod
    def of(cls, folder: ModelFolder) -> TextFolder:
        """Look into a model folder of the family `text`."""
        return cls(folder.part("model"))

    @property
    def kind(self) -> TextKind:
        """How the model computes.

        Raises:
            ModelFolderError: there is no model, only half of one, or one that gives no vectors.
        """
        is_onnx = (self.path / ONNX).is_file()
        if not is_onnx and (self.path / "model_name").is_file():
            return "model2vec" if self._is_table() else "sentence_transformers"
        config = _json(self.path / "config.json")
        if not is_onnx and is_reranker(config):
            return "reranker"
        if reason := why_no_encoder(config, self.path):
            raise ModelFolderError(f"{self.path.absolute()} holds {reason}")
        if is_onnx:
            return "onnx"
        if text_of(self.path / "onnx_runtime") == "true":  # as this project downloads it
            return "onnx_recipe"
        return "dpr" if config["model_type"] == "dpr" else "encoder"

    @property
    def snapshot(self) -> Path:
        """The model's files inside the hub cache.

        Raises:
            ModelFolderError: they are not there.
        """
        name = text_of(self.path / "model_name") or ""
        if found := hub_snapshot(self.path, name):
            return found
        raise ModelFolderError(f"{self.path.absolute()} holds no hub cache of {name}")

    @property
    def model_config(self) -> dict[str, Any]:
        """What was known of a hub cache's model when it was fetched."""
        return _json(self.path / "model_config")

    @property
    def modules(self) -> list[dict[str, Any]]:
        """The steps of a sentence-transformers model; none where it does not name them."""
        path = self.snapshot / "modules.json"
        modules: list[dict[str, Any]] = parsed(path, list) if path.is_file() else []
        return modules

    def _is_table(self) -> bool:
        return [_class_of(module) for module in self.modules[:1]] == ["StaticEmbedding"]


def _class_of(module: Mapping[str, Any]) -> str:
    name: str = module["type"].rpartition(".")[2]  # the package has moved with versions
    return name


def why_no_encoder(config: Mapping[str, Any], path: Path) -> str | None:
    """Say why a model gives no vectors of texts; None where it does.

    Args:
        config: its `config.json`.
        path: its folder. A list of modules there says that a decoder was trained to embed, though
            its configuration may still say that it goes on with a text.
    """
    kind, named = config.get("model_type"), config.get("architectures") or []
    is_decoder = kind in DECODERS
    others = [name for name in named if str(name).endswith(_OTHER_TASKS)]
    if is_decoder and (path / "modules.json").is_file():
        others = [name for name in others if not str(name).endswith("ForCausalLM")]
    # A model with an `auto_map` brings its own code.
    if not others and (kind in ENCODERS or is_decoder or "auto_map" in config):
        return None
    found = others[0] if others else f"a model of type {kind or 'unknown'}"
    return (
        f"{found}, which does not give vectors of texts; that do encoders of these types, unless "
        f"they are {', '.join(f'...{task}' for task in _OTHER_TASKS)}: {', '.join(ENCODERS)}"
    )


def kind_of(folder: ModelFolder) -> TextKind | None:
    """Return the kind of a model of texts only; None for another family."""
    return TextFolder.of(folder).kind if folder.family == "text" else None


def is_reranker(config: Mapping[str, Any]) -> bool:
    """Tell by a model's configuration whether it scores pairs; nothing else in the folder does."""
    return any(str(name).endswith(_SCORING) for name in config.get("architectures") or ())


def is_served_as_it_is(folder: ModelFolder) -> bool:
    """Tell whether there is one way to serve a model, with neither torch nor a conversion."""
    return kind_of(folder) in ("model2vec", "onnx")


def meta_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the reference's `GET /meta` says of a model with this configuration."""
    return {"model": config, "model_path": "./models/model"}


def kept_dimensions(stated: object, path: Path) -> int | None:
    """Return how many of a vector's first numbers a model keeps; None for all.

    Args:
        stated: `truncate_dim` of its `config_sentence_transformers.json`.
        path: of the model.

    Raises:
        ModelFolderError: it is no number of dimensions.
    """
    if stated is None or (type(stated) is int and stated > 0):
        return stated
    raise ModelFolderError(
        f"{path.absolute()}: truncate_dim in config_sentence_transformers.json is {stated!r}; "
        "expected how many dimensions to keep, 1 at least"
    )


def most_tokens(stated: int | None, positions: int | None) -> int:
    """Return how many tokens of a text the ONNX images' recipe reads, special ones included.

    Args:
        stated: the tokenizer's `model_max_length`; one that knows no limit says 10**30.
        positions: that the model has, if it says so.
    """
    known = [length for length in (stated, positions) if length and length < _NO_LIMIT]
    return min(known, default=_USUAL_LIMIT)


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = parsed(path, dict)
    return content


def parsed(path: Path, kind: type) -> Any:
    """Return what a file of JSON holds: an object (`dict`), or an array (`list`).

    Raises:
        ModelFolderError: it is missing, or holds something else.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelFolderError(f"{path.absolute()} is missing") from error
    except ValueError as error:
        raise ModelFolderError(f"{path.absolute()} is broken: {describe_error(error)}") from error
    if not isinstance(content, kind):
        raise ModelFolderError(f"{path.absolute()} is broken: it holds no JSON {_JSON[kind]}")
    return content

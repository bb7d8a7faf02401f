"""Rerankers: cross-encoders, which read a query and a document together and return one score.

Source of the scores: the reference's reranker container, and in the text mode `trained` the
`CrossEncoder` of sentence-transformers. See https://sbert.net/docs/cross_encoder/usage/usage.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from tokenizers import Tokenizer as Vocabulary
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.tokenization_utils_base import LARGE_INTEGER
from typing_extensions import override

from backends.families import transformers_models as hf
from backends.families.encoder import NAMES, places
from backends.folder import ModelFolder
from backends.json_files import read_optional_json
from backends.model import Activation, ModelOptions, TextMode
from backends.preprocessing.loaders import Described
from backends.preprocessing.pairs import PairProcessor, PairRecipe
from backends.preprocessing.tokens import Padding
from backends.preprocessing.vocabulary import VOCABULARY
from backends.runtimes.torch.towers import Portable, TorchModel, TorchTower, describe, place
from backends.text_folder import TextFolder, max_tokens
from errors import ModelFolderError

# Names of the supported activations. A name in a model's files is looked up here, and never
# imported as code.
_ACTIVATIONS: Mapping[str, Activation] = {
    "torch.nn.Identity": "identity",
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
}
_USUAL = "torch.nn.Sigmoid"  # default activation of a model with one label
# Models whose tokenizers return no token types, although their networks have an input for them.
# Source: `model_input_names` of transformers 4.44, which the reference uses.
_UNTYPED = ("CamembertTokenizer", "RobertaTokenizer", "XLMRobertaTokenizer")


def load(folder: ModelFolder, options: ModelOptions) -> TorchModel:
    """Load `model/`, a folder that `save_pretrained` wrote.

    Raises:
        ModelFolderError: the model does not return a single score, or is not supported.
    """
    path = TextFolder.open(folder).path
    config = AutoConfig.from_pretrained(
        path, trust_remote_code=options.trust_remote_code, local_files_only=True
    )
    if reason := _why_not(config):
        raise ModelFolderError(f"The reranker in {path.absolute()} cannot be served: {reason}")
    activations = _activations(path, options.text_mode)
    model = place(_network(path, options), options)
    info = describe(
        folder,
        options,
        family=NAMES.get(config.model_type, config.model_type),
        dimensions=1,
        image_px=0,
        networks=[model],
        config={"model": {**hf.full_config(model), "_name_or_path": "./models/model"}},
    )
    tower = _tower(model, path, options)
    return TorchModel(replace(info, activations=activations), {"pair": tower}, tuple(activations))


def _why_not(config: Any) -> str | None:
    if config.num_labels != 1:
        return (
            f"it has {config.num_labels} labels, so it classifies pairs and gives no single score; "
            "a reranker has one label"
        )
    kind = config.model_type
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return f"it is a decoder ({kind}), and only encoders are served as rerankers"
    return None


def _activations(path: Path, wanted: TextMode) -> dict[TextMode, Activation]:
    """Return the activation of each text mode, without text modes whose activation is unknown.

    Raises:
        ModelFolderError: the activation of the requested text mode is not supported.
    """
    names = {mode: _read_activation(path, mode) for mode in get_args(TextMode)}
    if names[wanted] not in _ACTIVATIONS:
        raise ModelFolderError(
            f"The reranker in {path.absolute()} cannot be served: its configuration names the "
            f"activation {names[wanted]}, and only {' and '.join(_ACTIVATIONS)} are supported"
        )
    return {mode: _ACTIVATIONS[name] for mode, name in names.items() if name in _ACTIVATIONS}


def _read_activation(path: Path, mode: TextMode) -> str:
    """Return the activation's name in the configuration, from the keys that the text mode reads.

    The reference reads the oldest key only.
    """
    config = hf.read_config(path)
    names = [config.get("sbert_ce_default_activation_function")]
    if mode == "trained":  # in the order of sentence-transformers 6
        beside = read_optional_json(path / "config_sentence_transformers.json")
        within = config.get("sentence_transformers") or {}
        names = [beside.get("activation_fn"), within.get("activation_fn"), *names]
    return next((str(name) for name in names if name), _USUAL)


def _network(path: Path, options: ModelOptions) -> Any:
    model, loading = AutoModelForSequenceClassification.from_pretrained(
        path,
        trust_remote_code=options.trust_remote_code,
        output_loading_info=True,
        **hf.load_options(),
    )
    if missing := sorted(loading["missing_keys"]):
        raise ModelFolderError(
            f"The reranker in {path.absolute()} cannot be served: its weights lack "
            f"{', '.join(missing)}, without which scores mean nothing"
        )
    return model


def _tower(model: Any, path: Path, options: ModelOptions) -> TorchTower:
    tokenizer = hf.load_tokenizer(path, options)
    vocabulary = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(vocabulary, Vocabulary) or tokenizer.truncation_side != "right":
        raise ModelFolderError(
            f"The reranker in {path.absolute()} cannot be served: its tokenizer "
            f"({type(tokenizer).__name__}) is not of the tokenizers library, or does not truncate "
            f"at the end of a text; save the model again with a {VOCABULARY}"
        )
    padding = Padding("rounded", _longest(model, tokenizer), tokenizer.pad_token_id or 0, True)
    recipe = PairRecipe(padding, _is_typed(model.config, path))
    scorer = Scorer(model)

    def describe_pairs(target: Path) -> Described:
        vocabulary.save(str(target / VOCABULARY))
        return {"kind": "pairs", **recipe.as_json()}

    arrays = 3 if recipe.typed else 2
    portable = Portable(
        scorer, (np.ones((2, 7), np.int64),) * arrays, [(-1, -1)] * arrays, describe_pairs
    )
    return TorchTower(PairProcessor(vocabulary, recipe), scorer, lambda: portable)


def _longest(model: Any, tokenizer: Any) -> int:
    """Return the maximum number of tokens of a pair, including special tokens."""
    stated, positions = int(tokenizer.model_max_length), places(model.base_model)
    # DeBERTa v3 has only relative positions, so its tokenizer sets the maximum.
    is_relative = not getattr(model.config, "position_biased_input", True)
    return max_tokens(stated, None if is_relative and stated < LARGE_INTEGER else positions)


def _is_typed(config: Any, path: Path) -> bool:
    """Return whether the network takes token types (query or document) in the reference."""
    tokenizer = read_optional_json(path / "tokenizer_config.json")
    names = tokenizer.get("model_input_names")
    of_class = str(tokenizer.get("tokenizer_class")).removesuffix("Fast") not in _UNTYPED
    is_named = "token_type_ids" in names if names else of_class
    return is_named and getattr(config, "type_vocab_size", 0) > 1


class Scorer(nn.Module):
    """A reranker's network: ids, mask and token types, each [n, length] -> logits [n, 1].

    Args:
        model: transformers' model for sequence classification.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @override
    def forward(self, ids: Tensor, mask: Tensor, types: Tensor | None = None) -> Tensor:
        typed = {} if types is None else {"token_type_ids": types}
        logits: Tensor = self.model(input_ids=ids, attention_mask=mask, **typed).logits
        return logits.float()

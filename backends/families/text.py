"""Text encoders: BERT and its relatives, and whatever else transformers' `AutoModel` reads.

Source of the vectors: the reference's text container. It pools the tokens of each sentence, and
its vectors keep their own length.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Vocabulary
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast
from typing_extensions import override

from backends.families import transformers_models as hf
from backends.folder import ModelFolder
from backends.inputs.chunks import LONGEST_CHUNK, ChunkPreparation, Reading
from backends.inputs.kinds import Described
from backends.inputs.tokens import Padding, TextRecipe, Tokenize, Tokenizer, TokenPreparation
from backends.model import ModelOptions
from backends.text_folder import TextFolder
from backends.torch.towers import (
    EVERY_TEXT_MODE,
    TorchModel,
    TorchTower,
    describe,
    place,
    portable_texts,
)
from errors import ModelFolderError

_NAMES = {
    "bert": "BERT",
    "distilbert": "DistilBERT",
    "mpnet": "MPNet",
    "roberta": "RoBERTa",
    "xlm-roberta": "XLM-RoBERTa",
}
POOLINGS = ("masked_mean", "cls")  # the first is the default


def load(folder: ModelFolder, options: ModelOptions) -> TorchModel:
    """Load `model/`, as `save_pretrained` left it.

    Raises:
        ModelFolderError: it is of a kind that cannot be served.
    """
    text = TextFolder.of(folder)
    if text.kind != "encoder":
        raise ModelFolderError(
            f"{text.path.absolute()} holds a model of the kind {text.kind}, which this version "
            "cannot serve yet; encoders and model2vec it can"
        )
    model = _load_model(text.path, options)
    tokenizer = _load_tokenizer(text.path, options)
    info = describe(
        folder,
        options,
        family=_NAMES.get(model.config.model_type, model.config.model_type),
        dimensions=model.config.hidden_size,
        image_px=0,
        networks=[model],
        config={"model": hf.full_config(model), "model_path": "./models/model"},
    )
    padding = Padding("rounded", _most_tokens(model), tokenizer.pad_token_id or 0, masked=True)
    tower = _tower(model, tokenizer, padding, folder.prefixes, options)
    return TorchModel(info, {"text": tower}, EVERY_TEXT_MODE)


def _tower(
    model: Any, tokenizer: Any, padding: Padding, prefixes: bool | None, options: ModelOptions
) -> TorchTower:
    recipe = TextRecipe("nothing", padding)  # what lower-cases is in the vocabulary
    tokens = TokenPreparation(_tokenize(tokenizer, recipe), padding)
    module = PooledEncoder(model)

    whole = portable_texts(module, recipe, partial(hf.save_vocabulary, tokenizer))

    def describe_chunks(folder: Path) -> Described:
        of_tokens = whole.describe(folder)
        return {"kind": "chunks", "poolings": POOLINGS, "prefixes": prefixes, "tokens": of_tokens}

    return TorchTower(
        ChunkPreparation(tokens, POOLINGS, Reading.of(options, prefixes)),
        module,
        lambda: replace(whole, describe=describe_chunks),
    )


class PooledEncoder(nn.Module):
    """Every pooling of a sentence's tokens in one pass: ids and a mask -> [n, poolings, dim].

    Both are [n, length]; the mask is 1 for a token and 0 for padding.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @override
    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        weights = mask.unsqueeze(-1).float()
        means = (states * weights).sum(dim=1) / weights.sum(dim=1)
        return torch.stack([means, states[:, 0]], dim=1)


def _load_model(path: Path, options: ModelOptions) -> Any:
    model = AutoModel.from_pretrained(
        path, trust_remote_code=options.trust_remote_code, **hf.load_options()
    )
    return place(model, options)


def _load_tokenizer(path: Path, options: ModelOptions) -> Any:
    # The classes that a model's tokenizer names make parts of it anew by rules of their own, and
    # where these do not fit the file, the vectors are other ones.
    if (path / "tokenizer.json").is_file():
        return PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
    return AutoTokenizer.from_pretrained(
        path, trust_remote_code=options.trust_remote_code, local_files_only=True
    )


def _tokenize(tokenizer: Any, recipe: TextRecipe) -> Tokenize:
    vocabulary = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(vocabulary, Vocabulary) and tokenizer.truncation_side == "right":
        return Tokenizer(vocabulary, recipe)
    return hf.TransformersTokenizer(tokenizer, recipe)


def _most_tokens(model: Any) -> int:
    """Return how many tokens are read of a sentence, special ones included."""
    positions: int | None = getattr(model.config, "max_position_embeddings", None)
    if not positions:
        return LONGEST_CHUNK
    # RoBERTa and its relatives count positions from behind that of the padding.
    padding: int | None = getattr(getattr(model, "embeddings", None), "padding_idx", None)
    return min(LONGEST_CHUNK, positions if padding is None else positions - padding - 1)

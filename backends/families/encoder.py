"""Text encoders: BERT, its relatives, and other encoders that transformers' `AutoModel` loads.

Source of the vectors: the reference's text container, which pools the token vectors of each
sentence and does not normalize the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel
from typing_extensions import override

from backends.families import transformers_models as hf
from backends.folder import ModelFolder
from backends.model import ModelInfo, ModelOptions
from backends.preprocessing.chunks import LONGEST_CHUNK, ChunkProcessor, Reading
from backends.preprocessing.loaders import Described
from backends.preprocessing.tokens import Padding, TextRecipe, TokenProcessor
from backends.runtimes.torch.stages import PortableStages
from backends.runtimes.torch.towers import (
    EVERY_TEXT_MODE,
    Portable,
    TorchModel,
    TorchTower,
    describe,
    place,
    portable_texts,
)
from backends.text_folder import DECODERS, TextFolder, reference_meta

NAMES = {
    "bert": "BERT",
    "deberta-v2": "DeBERTa v2",  # and DeBERTa v3, which has the same type
    "distilbert": "DistilBERT",
    "electra": "ELECTRA",
    "modernbert": "ModernBERT",
    "mpnet": "MPNet",
    "roberta": "RoBERTa",
    "xlm-roberta": "XLM-RoBERTa",
} | DECODERS
POOLINGS = ("masked_mean", "cls")  # the first is the default


def load(folder: ModelFolder, options: ModelOptions) -> TorchModel:
    """Load `model/`, a folder that `save_pretrained` wrote."""
    model, info = load_encoder(folder, options)
    tower = chunked_tower(PooledEncoder(model), folder, options, poolings=POOLINGS)
    return TorchModel(info, {"text": tower}, EVERY_TEXT_MODE)


def load_encoder(folder: ModelFolder, options: ModelOptions) -> tuple[Any, ModelInfo]:
    """Load the network in `model/` by transformers' `AutoModel`, and describe it."""
    model = AutoModel.from_pretrained(
        TextFolder.open(folder).path,
        trust_remote_code=options.trust_remote_code,
        **hf.load_options(),
    )
    kind = model.config.model_type
    name, dimensions = NAMES.get(kind, kind), model.config.hidden_size
    return place(model, options), describe_encoder(folder, options, name, model, dimensions)


def describe_encoder(
    folder: ModelFolder, options: ModelOptions, family: str, model: Any, dimensions: int
) -> ModelInfo:
    """Return the info of an encoder, with its configuration in the form of the reference."""
    config = reference_meta(hf.full_config(model))
    return describe(folder, options, family, dimensions, 0, [model], config)


def chunked_tower(
    module: EncoderModule,
    folder: ModelFolder,
    options: ModelOptions,
    poolings: Sequence[str] = (),
    every: int = 1,
) -> TorchTower:
    """Build the tower of an encoder that embeds each sentence of a text.

    Args:
        module: network: ids and mask -> [n, poolings, dim], or [n, dim] with a single pooling.
        folder: the model folder, with the tokenizer and the file of prefixes.
        options: the operator's settings for texts.
        poolings: names of the poolings that the module computes; empty with a single pooling.
        every: size of groups of sentences, of which only the first sentence is embedded; 1 for
            all sentences.
    """
    tokenizer = hf.load_tokenizer(TextFolder.open(folder).path, options)
    plain = piece_tower(module, tokenizer, LONGEST_CHUNK)
    prefixes = folder.prefixes

    def portable() -> Portable | PortableStages:
        whole = plain.portable()

        def describe_chunks(target: Path) -> Described:
            kind = {"kind": "chunks", "poolings": poolings, "prefixes": prefixes, "every": every}
            return {**kind, "tokens": whole.describe(target)}

        return replace(whole, describe=describe_chunks)

    reading = Reading.from_options(options, prefixes)
    texts = ChunkProcessor(plain.processor, poolings, reading, every)
    return TorchTower(texts, module, portable)


def piece_tower(module: EncoderModule, tokenizer: Any, max_tokens: int) -> TorchTower:
    """Build the tower of an encoder that embeds a text in one piece, cut to `max_tokens`."""
    longest = min(max_tokens, places(module.model) or max_tokens)
    padding = Padding("rounded", longest, tokenizer.pad_token_id or 0, masked=True)
    recipe = TextRecipe("nothing", padding)  # the tokenizer itself lower-cases
    return TorchTower(
        TokenProcessor(hf.tokenize_by(tokenizer, recipe), padding),
        module,
        lambda: portable_texts(module, recipe, partial(hf.save_vocabulary, tokenizer)),
    )


def places(model: Any) -> int | None:
    """Return a model's maximum number of tokens, including special tokens; None if unknown."""
    positions: int | None = getattr(model.config, "max_position_embeddings", None)
    # RoBERTa and its relatives number positions from the index of the padding plus 1.
    padding: int | None = getattr(getattr(model, "embeddings", None), "padding_idx", None)
    return positions if positions is None or padding is None else positions - padding - 1


class EncoderModule(nn.Module):
    """Base class of networks that contain a text encoder.

    Args:
        model: the encoder, a model of transformers.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        # A decoder would cache keys and values to generate further tokens, which is not done here.
        is_decoder = model.config.model_type in DECODERS
        self._options = {"use_cache": False} if is_decoder else {}

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Compute the last hidden states: ids and mask [n, length] -> [n, length, dim] float32."""
        found = self.model(input_ids=ids, attention_mask=mask, **self._options)
        states: Tensor = found.last_hidden_state
        return states.float()


class PooledEncoder(EncoderModule):
    """Computes all poolings in one forward pass: ids and mask -> vectors [n, poolings, dim].

    Ids and mask are [n, length]; the mask is 1 for a token and 0 for padding.
    """

    @override
    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.states(ids, mask)
        return torch.stack([mean(states, mask), states[:, 0]], dim=1)


def mean(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of unmasked token states: [n, length, dim], [n, length] -> [n, dim]."""
    weights = mask.unsqueeze(-1).float()
    return (states * weights).sum(dim=1) / weights.sum(dim=1)

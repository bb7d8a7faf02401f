"""Text towers of sentence-transformers, which run the modules of a model in order.

All kinds of modules can be served by torch; some cannot be converted for OpenVINO.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from typing_extensions import override

from backends.families import transformers_models as hf
from backends.model import Arrays, EncodeParams, ModelInput, ModelOptions
from backends.preprocessing.single_part import SinglePart
from backends.preprocessing.tokens import (
    CHARS_OF_A_TOKEN,
    Padding,
    TextRecipe,
    TokenProcessor,
    Tokens,
    beginning,
)
from backends.preprocessing.vocabulary import IdLimit, VocabularyInfo
from backends.runtimes.torch.towers import Portable, TorchTower, identity, place, portable_texts
from backends.text_folder import kept_dimensions
from errors import ConversionError

logging.getLogger("sentence_transformers").setLevel(logging.WARNING)  # this project logs it itself


def load_sentence_transformer(path: Path, options: ModelOptions) -> SentenceTransformer:
    """Load a sentence-transformers model in float32, whatever the dtype of its files.

    Then move it to the device and the precision of `options`.

    Raises:
        ModelFolderError: the model's `truncate_dim` is invalid.
    """
    model = SentenceTransformer(
        str(path),
        device="cpu",
        local_files_only=True,
        trust_remote_code=options.trust_remote_code,
        model_kwargs={"dtype": torch.float32},
    )
    # The configured length may exceed the network's number of positions.
    if places := hf.positions(model):
        model.max_seq_length = min(model.max_seq_length or places, places)
    model.truncate_dim = kept_dimensions(model.truncate_dim, path)
    placed: SentenceTransformer = place(model, options)
    return placed


_IDS, _MASK, _SEGMENTS = "input_ids", "attention_mask", "token_type_ids"
_ENDLESS = 10**9  # tokens; tokenizers without a maximum length have 10**30


def text_tower(
    model: SentenceTransformer,
    tokenizer: Any = None,
    postprocess: Callable[[Tensor], Tensor] = identity,
) -> TorchTower:
    """Build the text tower of a sentence-transformers model: its modules, then `postprocess`.

    Args:
        model: the sentence-transformers model.
        tokenizer: a tokenizer of transformers that replaces the model's own tokenizer.
        postprocess: a function that is applied to the vectors of the last module.
    """
    features = _tensors(model, "a text")
    if reason := _why_own_features(model, features):
        module = _TextNetwork(model, sorted(features), postprocess)
        return TorchTower(_Features(model, sorted(features)), module, partial(_refuse, reason))
    module = _TextNetwork(model, (_IDS, _MASK), postprocess)
    # Pad on the right, even if the tokenizer pads on the left for last-token pooling. With the mask
    # the result is the same, and the positions of tokens do not depend on the padding.
    pad_id = model.tokenizer.pad_token_id or 0
    padding = Padding("rounded", model.max_seq_length, pad_id, masked=True)
    if tokenizer is None:
        recipe = TextRecipe("nothing", padding)  # the tokenizer itself lower-cases
        processor = TokenProcessor(_Tokenize(model), padding)
    else:
        recipe = TextRecipe("lower" if model[0].do_lower_case else "nothing", padding)
        processor = TokenProcessor(hf.tokenize_by(tokenizer, recipe), padding)
    save_vocabulary = partial(hf.save_vocabulary, tokenizer or model.tokenizer)
    return TorchTower(processor, module, lambda: portable_texts(module, recipe, save_vocabulary))


def _why_own_features(model: SentenceTransformer, features: Mapping[str, Tensor]) -> str | None:
    """Return why ids and a mask are not enough input for a text model; None if they are."""
    if not {_IDS, _MASK} <= features.keys() <= {_IDS, _MASK, _SEGMENTS}:
        return f"its text model reads {' and '.join(sorted(features))}"
    if (model.max_seq_length or _ENDLESS) >= _ENDLESS:
        return "its text model has no maximum length"
    return None


def _refuse(reason: str) -> Portable:
    raise ConversionError(reason)


def _tensors(model: SentenceTransformer, text: str) -> dict[str, Tensor]:
    found = model.preprocess([text])
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


class _Tokenize:
    """The tokenizer of a text model whose inputs are ids and a mask."""

    def __init__(self, model: SentenceTransformer) -> None:
        self._model = model
        self._lock = Lock()  # the tokenizer sets its truncation at every call

    @property
    def vocabulary_info(self) -> VocabularyInfo:
        """Facts about the tokenizer's vocabulary."""
        return hf.describe_transformers_vocabulary(self._model.tokenizer)

    def __call__(self, text: str) -> Tokens:
        length = self._model.max_seq_length
        text = beginning(text, length)
        with self._lock:
            ids: list[int] = _tensors(self._model, text)[_IDS][0].tolist()
            return Tokens(ids, hf.is_cut(self._model.tokenizer, text, ids, length))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        with self._lock:
            return hf.decode_ids(self._model.tokenizer, ids)


class _Features(SinglePart):
    """Input processor of a text model that needs more input than ids and a mask.

    sentence-transformers makes the inputs, which it calls features.

    Args:
        model: the sentence-transformers model.
        names: names of the network's inputs, in order.
    """

    def __init__(self, model: SentenceTransformer, names: Sequence[str]) -> None:
        self._model = model
        self._names = names
        self._lock = Lock()
        vocabulary = hf.describe_transformers_vocabulary(model.tokenizer)
        self._limit = IdLimit(vocabulary) if _IDS in names else None

    @override
    def limit_ids(self, rows: int) -> None:
        """Refuse texts with ids that have no embedding."""
        if self._limit:
            self._limit.set(rows)

    def estimate(self, text: str) -> int:
        """Estimate the number of tokens from the number of characters."""
        return 1 + len(text) // CHARS_OF_A_TOKEN

    def prepare(self, text: str, _params: EncodeParams) -> ModelInput:
        """Return the features of a text; without a mask, the text has a batch of its own."""
        length = self._model.max_seq_length  # None: no maximum
        text = beginning(text, length) if length else text
        with self._lock:
            features = _tensors(self._model, text)
            cut = _MASK in features and length
            ids = features[_IDS].flatten().tolist() if _IDS in features else []
            if self._limit:
                self._limit.check(ids)
            truncated = bool(cut) and hf.is_cut(self._model.tokenizer, text, ids, length)
        arrays = tuple(features[name].numpy() for name in self._names)
        cost = max(len(ids), 1)
        if _MASK not in features:
            return ModelInput(arrays, None, cost, len(ids), truncated)
        shapes = tuple(array.shape for array in arrays)
        return ModelInput(tuple(array[0] for array in arrays), shapes, cost, len(ids), truncated)

    def collate(self, items: Sequence[ModelInput]) -> Arrays:
        """Stack features of equal shapes; features of a lone text already have a batch axis."""
        return items[0].arrays if items[0].bucket is None else super().collate(items)

    @override
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        with self._lock:
            return hf.decode_ids(self._model.tokenizer, ids)


class _TextNetwork(nn.Module):
    """The modules of a text model: features, in the order of `names` -> vectors [n, dim]."""

    def __init__(
        self,
        model: SentenceTransformer,
        names: Sequence[str],
        postprocess: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.model = model
        self._names = tuple(names)
        self._postprocess = postprocess

    @override
    def forward(self, *arrays: Tensor) -> Tensor:
        features = dict(zip(self._names, arrays, strict=True))
        vectors = sentence_embedding(self.model)({**features, "modality": "text"})
        return self._postprocess(vectors.float())


def sentence_embedding(model: SentenceTransformer) -> Callable[[dict[str, Any]], Tensor]:
    """Return a function from features to vectors, which are truncated as `encode` does."""
    dimensions: int | None = model.truncate_dim

    def network(features: dict[str, Any]) -> Tensor:
        vectors: Tensor = model(features)["sentence_embedding"]
        return vectors if dimensions is None else vectors[..., :dimensions]

    return network

"""The text half of sentence-transformers: a model's modules, run one after the other, as a tower.

They are run as they are, so no list of them is kept here: what cannot be converted shows itself.
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
    IdLimit,
    Known,
    Padding,
    TextRecipe,
    TokenProcessor,
    Tokens,
    beginning,
)
from backends.runtimes.torch.towers import Portable, TorchTower, identity, place, portable_texts
from backends.text_folder import kept_dimensions
from errors import ConversionError

logging.getLogger("sentence_transformers").setLevel(logging.WARNING)  # our own line says it


def load_sentence_transformer(path: Path, options: ModelOptions) -> SentenceTransformer:
    """Load a model from its folder, in float32 whatever its weights are stored in.

    Raises:
        ModelFolderError: it keeps no number of dimensions that could be.
    """
    model = SentenceTransformer(
        str(path),
        device="cpu",
        local_files_only=True,
        trust_remote_code=options.trust_remote_code,
        model_kwargs={"dtype": torch.float32},
    )
    # What the model says of itself may be more than its network has positions for.
    if places := hf.positions(model):
        model.max_seq_length = min(model.max_seq_length or places, places)
    model.truncate_dim = kept_dimensions(model.truncate_dim, path)
    placed: SentenceTransformer = place(model, options)
    return placed


_IDS, _MASK, _SEGMENTS = "input_ids", "attention_mask", "token_type_ids"
_ENDLESS = 10**9  # tokens; a tokenizer that knows no length says 10**30


def text_tower(
    model: SentenceTransformer,
    tokenizer: Any = None,
    postprocess: Callable[[Tensor], Tensor] = identity,
) -> TorchTower:
    """Build the text tower.

    Args:
        model: the sentence-transformers model.
        tokenizer: a tokenizer of transformers that replaces the model's own.
        postprocess: a function that is applied to the vectors of the last module.
    """
    features = _tensors(model, "a text")
    if reason := _why_of_its_own(model, features):
        module = _TextNetwork(model, sorted(features), postprocess)
        return TorchTower(_Features(model, sorted(features)), module, partial(_refuse, reason))
    module = _TextNetwork(model, (_IDS, _MASK), postprocess)
    # On the right even where its tokenizer pads on the left, as for last tokens: who reads the
    # mask finds the same, and the places of tokens are those of the text alone.
    pad_id = model.tokenizer.pad_token_id or 0
    padding = Padding("rounded", model.max_seq_length, pad_id, masked=True)
    if tokenizer is None:
        recipe = TextRecipe("nothing", padding)  # what lower-cases is in the vocabulary
        processor = TokenProcessor(_Tokenize(model), padding)
    else:
        recipe = TextRecipe("lower" if model[0].do_lower_case else "nothing", padding)
        processor = TokenProcessor(hf.tokenize_by(tokenizer, recipe), padding)
    save_vocabulary = partial(hf.save_vocabulary, tokenizer or model.tokenizer)
    return TorchTower(processor, module, lambda: portable_texts(module, recipe, save_vocabulary))


def _why_of_its_own(model: SentenceTransformer, features: Mapping[str, Tensor]) -> str | None:
    """Say why a text model's input is not ids and a mask that may be padded at the end."""
    if not {_IDS, _MASK} <= features.keys() <= {_IDS, _MASK, _SEGMENTS}:
        return f"its text model reads {' and '.join(sorted(features))}"
    if (model.max_seq_length or _ENDLESS) >= _ENDLESS:
        return "its text model says of no length how much it reads"
    return None


def _refuse(reason: str) -> Portable:
    raise ConversionError(reason)


def _tensors(model: SentenceTransformer, text: str) -> dict[str, Tensor]:
    found = model.preprocess([text])
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


class _Tokenize:
    """The tokenizer of a text model that reads ids and a mask."""

    def __init__(self, model: SentenceTransformer) -> None:
        self._model = model
        self._lock = Lock()  # it notes where to cut in itself, at every call

    @property
    def known(self) -> Known:
        """What its vocabulary holds."""
        return hf.known_by_transformers(self._model.tokenizer)

    def __call__(self, text: str) -> Tokens:
        length = self._model.max_seq_length
        text = beginning(text, length)
        with self._lock:
            ids: list[int] = _tensors(self._model, text)[_IDS][0].tolist()
            return Tokens(ids, hf.is_cut(self._model.tokenizer, text, ids, length))

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special ones left out."""
        with self._lock:
            return hf.text_of(self._model.tokenizer, ids)


class _Features(SinglePart):
    """The input of any other text model, as its own library makes it of a text.

    Args:
        model: which one.
        names: the features that its network takes, in this order.
    """

    def __init__(self, model: SentenceTransformer, names: Sequence[str]) -> None:
        self._model = model
        self._names = names
        self._lock = Lock()
        self._limit = IdLimit(hf.known_by_transformers(model.tokenizer)) if _IDS in names else None

    @override
    def limit_ids(self, rows: int) -> None:
        """Read no text with an id that has no embedding."""
        if self._limit:
            self._limit.set(rows)

    def estimate(self, text: str) -> int:
        """Guess the tokens."""
        return 1 + len(text) // CHARS_OF_A_TOKEN

    def prepare(self, text: str, _params: EncodeParams) -> ModelInput:
        """Return the features; those without a mask say nothing of rows, and share no pass."""
        length = self._model.max_seq_length  # None: it reads a text of any length
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
        """Stack rows of equal shapes; what is alone comes with the axis of its batch."""
        return items[0].arrays if items[0].bucket is None else super().collate(items)

    @override
    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special ones left out."""
        with self._lock:
            return hf.text_of(self._model.tokenizer, ids)


class _TextNetwork(nn.Module):
    """The networks of a text model over its features, in the order of their names."""

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
    """Return a model's modules as a function of their features, cut as its `encode` cuts."""
    dimensions: int | None = model.truncate_dim

    def network(features: dict[str, Any]) -> Tensor:
        vectors: Tensor = model(features)["sentence_embedding"]
        return vectors if dimensions is None else vectors[..., :dimensions]

    return network

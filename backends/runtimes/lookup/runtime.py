"""model2vec: a vector for every token, and a text's is their mean, of length 1.

See https://github.com/MinishLab/model2vec and sentence-transformers' `StaticEmbedding`, in whose
layout the models come. Source of the length: the reference's text container, which normalizes
what any sentence-transformers model gives.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file
from tokenizers import Tokenizer as Vocabulary
from typing_extensions import override

from backends.folder import ModelFolder, loaded
from backends.model import EncodeParams, Model, ModelInfo, ModelInput, ModelOptions, Rows, Tower
from backends.preprocessing.prompts import PromptedProcessor, Prompts, wants_prefixes
from backends.preprocessing.single_part import SinglePart
from backends.preprocessing.tokens import (
    CHARS_OF_A_TOKEN,
    VOCABULARY,
    IdLimit,
    decode,
    known_by,
    read_vocabulary,
)
from backends.text_folder import TextFolder, kept_dimensions, meta_of
from backends.weights import MISSING, NOT_FINITE, do_not_fit, strange_prefix

_WEIGHTS = "model.safetensors"
_NAMES = ("embedding.weight", "embeddings")  # as sentence-transformers and model2vec save it
_CONFIG = "config_sentence_transformers.json"


def load(folder: ModelFolder, options: ModelOptions) -> Model:
    """Load a folder of the text container whose model is a table.

    Raises:
        ModelFolderError: the folder's content cannot be loaded.
    """
    return loaded(folder, "model2vec", lambda: _load(folder, options))


def _load(folder: ModelFolder, options: ModelOptions) -> Model:
    model = TextFolder.of(folder)
    path = model.snapshot
    files = path / model.modules[0]["path"]
    config = _read_config(path / _CONFIG)
    kept = kept_dimensions(config.get("truncate_dim"), path)
    table = np.ascontiguousarray(_read_table(files / _WEIGHTS)[:, :kept])
    vocabulary = read_vocabulary(files / VOCABULARY)
    info = ModelInfo(
        family="model2vec",
        dimensions=table.shape[1],
        parameters=table.size,
        runtime="numpy",
        device="cpu",
        precision="float32",
        text_mode=options.text_mode,
        image_px=0,
        is_demo=folder.is_demo,
        config=meta_of(model.model_config),
        cuts=True,
    )
    tokens = LookupProcessor(vocabulary)
    tokens.limit_ids(table.shape[0])
    texts = PromptedProcessor(
        tokens,
        Prompts.of_json(config.get("prompts") or {}),
        wants_prefixes(options, folder.prefixes),
    )
    return Model(info, {"text": Tower(texts, LookupNetwork(table), is_lookup=True)})


def _read_table(path: Path) -> npt.NDArray[np.float32]:
    stored: dict[str, npt.NDArray[Any]] = load_file(path)
    if prefix := strange_prefix(_NAMES, stored.keys() - _NAMES):
        stored = {name.removeprefix(prefix): weight for name, weight in stored.items()}
    name = next((one for one in _NAMES if one in stored), None)
    if name is None:
        raise ValueError(do_not_fit([f"{_NAMES[0]} {MISSING}"]))
    table = np.asarray(stored[name], np.float32)
    if name == _NAMES[1]:
        if "mapping" in stored:  # several tokens may share a row, each with a weight of its own
            table = table[stored["mapping"]]
        if "weights" in stored:
            table = table * stored["weights"].astype(np.float32)[:, None]
    if not np.isfinite([table.min(), table.max()]).all():  # either is NaN where a number is
        raise ValueError(do_not_fit([f"{name} {NOT_FINITE}"]))
    return table


def _read_config(path: Path) -> Mapping[str, Any]:
    config: Mapping[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return config


class LookupProcessor(SinglePart):
    """Tokenizes, without special tokens; texts of equal length share a pass.

    Args:
        vocabulary: it is changed: it pads no more.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        vocabulary.no_padding()
        self._vocabulary = vocabulary
        self._limit = IdLimit(known_by(vocabulary))

    @override
    def limit_ids(self, rows: int) -> None:
        """Read no text with an id that has no row."""
        self._limit.set(rows)

    def estimate(self, text: str) -> int:
        """Guess the tokens."""
        return 1 + len(text) // CHARS_OF_A_TOKEN

    def prepare(self, text: str, _params: EncodeParams) -> ModelInput:
        """Return the ids, [length] int64; of a text without a word there are none."""
        encoding = self._vocabulary.encode(text, add_special_tokens=False)
        self._limit.check(encoding.ids)
        ids = np.array(encoding.ids, np.int64)
        return ModelInput((ids,), len(ids), len(ids), len(ids), bool(encoding.overflowing))

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of ids.

        Raises:
            InvalidInputError: one is none of the vocabulary.
        """
        return decode(self._vocabulary, ids)


class LookupNetwork:
    """Means of rows, of length 1.

    Args:
        table: [tokens, dimensions].
    """

    def __init__(self, table: npt.NDArray[np.float32]) -> None:
        self._table = table

    def __call__(self, ids: npt.NDArray[np.int64]) -> Rows:
        """Look up ids, [n, length], of any length: [n, dimensions]; zeros for no ids."""
        sums = self._table[ids].sum(axis=1)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        rows: Rows = sums / np.maximum(lengths, np.finfo(np.float32).tiny)
        return rows

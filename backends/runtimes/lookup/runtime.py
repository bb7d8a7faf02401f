"""The lookup runtime, for model2vec: a text's vector is the normalized mean of its token vectors.

See https://github.com/MinishLab/model2vec and sentence-transformers' `StaticEmbedding`, whose
layout the models have. Source of the normalization: the reference's text container, which
normalizes the vectors of every sentence-transformers model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file
from tokenizers import Tokenizer as Vocabulary
from typing_extensions import override

from backends.folder import ModelFolder, loaded
from backends.json_files import read_optional_json
from backends.model import EncodeParams, Model, ModelInfo, ModelInput, ModelOptions, Rows, Tower
from backends.preprocessing.prompts import PromptedProcessor, Prompts, wants_prefixes
from backends.preprocessing.single_part import SinglePart
from backends.preprocessing.tokens import CHARS_OF_A_TOKEN
from backends.preprocessing.vocabulary import (
    VOCABULARY,
    IdLimit,
    decode,
    describe_vocabulary,
    read_vocabulary,
)
from backends.text_folder import TextFolder, kept_dimensions, reference_meta
from backends.weights import MISSING, NOT_FINITE, do_not_fit, strange_prefix

_WEIGHTS = "model.safetensors"
_NAMES = ("embedding.weight", "embeddings")  # in files of sentence-transformers and of model2vec
_CONFIG = "config_sentence_transformers.json"


def load(folder: ModelFolder, options: ModelOptions) -> Model:
    """Load a lookup model from a folder of the text container.

    Raises:
        ModelFolderError: the folder's content cannot be loaded.
    """
    return loaded(folder, "model2vec", lambda: _load(folder, options))


def _load(folder: ModelFolder, options: ModelOptions) -> Model:
    model = TextFolder.open(folder)
    path = model.snapshot
    files = path / model.modules[0]["path"]
    config = read_optional_json(path / _CONFIG)
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
        config=reference_meta(model.model_config),
        cuts=True,
    )
    tokens = LookupProcessor(vocabulary)
    tokens.limit_ids(table.shape[0])
    texts = PromptedProcessor(
        tokens,
        Prompts.from_json(config.get("prompts") or {}),
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
        if "mapping" in stored:  # tokens share rows, but have their own weights
            table = table[stored["mapping"]]
        if "weights" in stored:
            table = table * stored["weights"].astype(np.float32)[:, None]
    if not np.isfinite([table.min(), table.max()]).all():  # NaN if any number is NaN
        raise ValueError(do_not_fit([f"{name} {NOT_FINITE}"]))
    return table


class LookupProcessor(SinglePart):
    """Tokenizes texts without special tokens; texts of equal length share batches.

    Args:
        vocabulary: the tokenizer; its padding is turned off.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        vocabulary.no_padding()
        self._vocabulary = vocabulary
        self._limit = IdLimit(describe_vocabulary(vocabulary))

    @override
    def limit_ids(self, rows: int) -> None:
        """Reject texts with ids that have no row in the table."""
        self._limit.set(rows)

    def estimate(self, text: str) -> int:
        """Estimate the cost, in tokens, from the length of the text alone."""
        return 1 + len(text) // CHARS_OF_A_TOKEN

    def prepare(self, text: str, _params: EncodeParams) -> ModelInput:
        """Tokenize a text: return ids [length] int64, empty if the text has no known word."""
        encoding = self._vocabulary.encode(text, add_special_tokens=False)
        self._limit.check(encoding.ids)
        ids = np.array(encoding.ids, np.int64)
        return ModelInput((ids,), len(ids), len(ids), len(ids), bool(encoding.overflowing))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids.

        Raises:
            InvalidInputError: an id is not in the vocabulary.
        """
        return decode(self._vocabulary, ids)


class LookupNetwork:
    """Computes a text's vector: the normalized mean of the rows of its tokens.

    Args:
        table: the vectors of tokens, [tokens, dimensions] float32.
    """

    def __init__(self, table: npt.NDArray[np.float32]) -> None:
        self._table = table

    def __call__(self, ids: npt.NDArray[np.int64]) -> Rows:
        """Compute vectors: ids [n, length] -> [n, dimensions]; zeros if the length is 0."""
        sums = self._table[ids].sum(axis=1)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        rows: Rows = sums / np.maximum(lengths, np.finfo(np.float32).tiny)
        return rows

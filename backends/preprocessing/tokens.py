"""Tokenizes and pads texts. Each family pads in its own way, which can change its vectors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from tokenizers import Encoding
from tokenizers import Tokenizer as Vocabulary

from backends.model import Arrays, EncodeParams, ModelInput, ModelOptions
from backends.preprocessing.single_part import SinglePart
from backends.preprocessing.text_normalizers import NORMALIZERS, Normalizer
from backends.preprocessing.vocabulary import (
    VOCABULARY,
    IdLimit,
    VocabularyInfo,
    decode,
    describe_vocabulary,
    read_vocabulary,
)
from errors import InvalidInputError


class Tokens(NamedTuple):
    """The token ids of a text, including special tokens, and whether the text was truncated."""

    ids: list[int]
    truncated: bool


class Tokenize(Protocol):
    """A thread-safe tokenizer: it turns a text into truncated token ids, and ids into text."""

    @property
    def vocabulary_info(self) -> VocabularyInfo:
        """Facts about its vocabulary."""
        ...

    def __call__(self, text: str, /) -> Tokens:
        """Tokenize a text; truncate it to the tokenizer's maximum length."""
        ...

    def decode(self, ids: Sequence[int], /) -> str:
        """Return the text of token ids, without special tokens.

        Raises:
            InvalidInputError: an id is not in the vocabulary.
        """
        ...


# Characters of a token, more than the average in any vocabulary. Long texts are cut before
# tokenizing, as a tokenizer reads a text to its end: 32 texts of 100,000 emojis took 23 s.
CHARS_PER_TOKEN = 64


def beginning(text: str, tokens: int) -> str:
    """Return a beginning of a text that has at least its first `tokens` tokens.

    White space does not count towards the length.
    """
    chars = tokens * CHARS_PER_TOKEN
    if len(text) <= chars:
        return text
    spaces = re.finditer(r"\s+", text)
    end = chars
    for run in spaces:
        if run.start() >= end:
            break
        end += run.end() - run.start()
    return text[:end]


# Lengths are padded to a multiple of a step: 4 tokens below 32, else 8. OpenVINO prepares every new
# shape (5 ms), and texts of equal length are rare. Texts a second of ViT-B/32's text tower in
# float32, on 2 cores with AMX, from the times of its passes (3 to 77 tokens, most texts short):
#
#   step                     1    2    4    8   16   the longest text of the batch
#   16 texts wait          104  121  135  147  141   82
#   4 texts wait            84   89   93  102  104  102
#   MB of all shapes                  98   72   55
#
# For texts of ten words, 16 clients get 0.83 times as many with a step of 8 as with 4.
_SHORT, _ROUNDED_SHORT, _ROUNDED = 32, 4, 8


@dataclass(frozen=True)
class Padding:
    """The padding of texts, which changes vectors.

    The padded length depends only on the text, not on its batch. In half precision, vectors differ
    slightly by padded length, and a vector must not depend on other requests.

    Attributes:
        to: the padded length. `rounded`: rounded up to a step, for towers that ignore padding.
            `full`: the maximum length, for towers that were trained with padding. `nothing`: no
            padding, for towers that do not ignore padding and were trained without it.
        longest: maximum number of tokens of a text.
        token_id: token id of the padding.
        masked: whether the network takes a mask: 1 for a token, 0 for padding.
    """

    to: Literal["rounded", "full", "nothing"]
    longest: int
    token_id: int = 0
    masked: bool = False

    def padded_length(self, tokens: int) -> int:
        """Return the padded length of a text of `tokens` tokens."""
        if self.to == "full":
            return self.longest
        if self.to == "nothing":
            return tokens
        step = _ROUNDED_SHORT if tokens <= _SHORT else _ROUNDED
        return min(-(-max(tokens, 1) // step) * step, self.longest)

    def __call__(self, ids: Sequence[int]) -> Arrays:
        """Pad ids; return ids and, if used, a mask, each [length] int64."""
        padded = np.full(self.padded_length(len(ids)), self.token_id, np.int64)
        padded[: len(ids)] = ids
        if not self.masked:
            return (padded,)
        mask = np.zeros_like(padded)
        mask[: len(ids)] = 1
        return padded, mask


def limit_padded_ids(limit: IdLimit, rows: int, padding: Padding, fewest: Sequence[int]) -> Padding:
    """Set the number of token embeddings; return the padding to use from now on.

    If the padding's id has none, id 0 replaces it. Texts that are all padded to the maximum length
    (`full`) keep their padding, as the network reads it.

    Args:
        limit: from now on it rejects ids from `rows` on.
        rows: number of token embeddings.
        padding: the padding until now.
        fewest: the ids that every input has, which are those of the empty input.

    Raises:
        ValueError: all inputs would be rejected.
    """
    limit.set(rows)
    if padding.token_id >= rows and padding.to != "full":
        padding = replace(padding, token_id=0)
    try:
        limit.check([*fewest, padding.token_id])
    except InvalidInputError as error:
        raise ValueError(f"no text can be read: {error}") from error
    return padding


CHARS_OF_A_TOKEN = 4  # typical for English; used to estimate costs


class TokenProcessor(SinglePart):
    """Tokenizes and pads texts; equal padded lengths share batches.

    Args:
        tokenize: the family's tokenizer.
        padding: maximum length and padding.
    """

    def __init__(self, tokenize: Tokenize, padding: Padding) -> None:
        self._tokenize = tokenize
        self._padding = padding
        self._limit = IdLimit(tokenize.vocabulary_info)

    def limit_ids(self, rows: int) -> None:
        """Reject texts with ids that have no embedding; see `limit_padded_ids`."""
        fewest = self._tokenize("").ids
        self._padding = limit_padded_ids(self._limit, rows, self._padding, fewest)

    def estimate(self, text: str) -> int:
        """Estimate the number of tokens, with padding, from the number of characters."""
        tokens = 2 + len(text) // CHARS_OF_A_TOKEN  # start and end token
        return self._padding.padded_length(min(tokens, self._padding.longest))

    def prepare(self, text: str, _params: EncodeParams) -> ModelInput:
        """Tokenize and pad a text: return ids and, if used, a mask, each [length] int64."""
        ids, truncated = self._tokenize(text)
        self._limit.check(ids)
        arrays = self._padding(ids)
        length = len(arrays[0])
        return ModelInput(arrays, bucket=length, cost=length, tokens=len(ids), truncated=truncated)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids.

        Raises:
            InvalidInputError: an id is not in the vocabulary.
        """
        return self._tokenize.decode(ids)


@dataclass(frozen=True)
class TextRecipe:
    """Parameters of tokenizing texts, in addition to the vocabulary; stored in `model.json`.

    Attributes:
        cleaning: name of the text normalizer.
        padding: maximum length and padding.
    """

    cleaning: Normalizer
    padding: Padding

    def as_json(self) -> dict[str, object]:
        """Return the parameters as JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, recipe: Mapping[str, Any]) -> TextRecipe:
        """Read the parameters from JSON types."""
        return cls(recipe["cleaning"], Padding(**recipe["padding"]))


class Tokenizer:
    """A tokenizer of the tokenizers library; a truncated text keeps its end token.

    Args:
        vocabulary: the library's tokenizer; its truncation is set by this class.
        recipe: normalization and padding.
    """

    def __init__(self, vocabulary: Vocabulary, recipe: TextRecipe) -> None:
        vocabulary.no_padding()
        vocabulary.enable_truncation(recipe.padding.longest)
        self._vocabulary = vocabulary
        self._max_length = recipe.padding.longest
        self._clean = NORMALIZERS[recipe.cleaning]

    @property
    def vocabulary_info(self) -> VocabularyInfo:
        """Facts about its vocabulary."""
        return describe_vocabulary(self._vocabulary)

    def __call__(self, text: str) -> Tokens:
        """Tokenize a text, truncated to the maximum length."""
        clean = self._clean(beginning(text, self._max_length))
        encoding: Encoding = self._vocabulary.encode_batch_fast([clean])[0]
        return Tokens(encoding.ids, bool(encoding.overflowing))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens.

        Raises:
            InvalidInputError: an id is not in the vocabulary.
        """
        return decode(self._vocabulary, ids)


def read(folder: Path, described: Mapping[str, Any], _options: ModelOptions) -> TokenProcessor:
    """Load the input processor that a converted model describes."""
    recipe = TextRecipe.from_json(described)
    vocabulary = read_vocabulary(folder / VOCABULARY)
    return TokenProcessor(Tokenizer(vocabulary, recipe), recipe.padding)

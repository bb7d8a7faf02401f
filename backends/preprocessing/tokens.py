"""Tokenizes and pads texts. Each family pads in its own way, which can change its vectors."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from tokenizers import Encoding
from tokenizers import Tokenizer as Vocabulary

from backends.model import Arrays, EncodeParams, ModelInput, ModelOptions
from backends.preprocessing.single_part import SinglePart
from backends.preprocessing.text_normalizers import NORMALIZERS, Normalizer
from errors import InvalidInputError

logger = logging.getLogger(__name__)

VOCABULARY = "tokenizer.json"  # file in a converted model's folder
_IDS = 2**32  # ids of the tokenizers library are smaller


class Tokens(NamedTuple):
    """The token ids of a text, including special tokens, and whether the text was truncated."""

    ids: list[int]
    truncated: bool


class VocabularyInfo(NamedTuple):
    """Facts about a tokenizer's vocabulary.

    Attributes:
        ids: the largest id plus 1.
        has_words: whether any token contains a letter or a digit.
    """

    ids: int
    has_words: bool


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


_SPECIAL = re.compile(r"[<\[].*[>\]]", re.DOTALL)  # such as <s> or [CLS]


def describe_tokens(tokens: Mapping[str, int], special: Collection[str]) -> VocabularyInfo:
    """Return facts about a vocabulary.

    Args:
        tokens: token -> token id.
        special: the special tokens, which represent no text.
    """
    return VocabularyInfo(max(tokens.values(), default=-1) + 1, _has_words(tokens, special))


def _has_words(tokens: Iterable[str | None], special: Collection[str]) -> bool:
    return any(
        any(map(str.isalnum, token)) and token not in special and not _SPECIAL.fullmatch(token)
        for token in tokens
        if token
    )


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a vocabulary file of the tokenizers library.

    Raises:
        ValueError: the file is missing.
    """
    if not path.is_file():
        raise ValueError(f"{path.absolute()} is missing")
    return Vocabulary.from_file(str(path))


def describe_vocabulary(vocabulary: Vocabulary) -> VocabularyInfo:
    """Return facts about a vocabulary of the tokenizers library."""
    added = vocabulary.get_added_tokens_decoder().values()
    special = {token.content for token in added if token.special}
    ids = vocabulary.get_vocab_size()
    if ids == 0 or vocabulary.id_to_token(ids - 1) is None:  # ids have gaps
        return describe_tokens(vocabulary.get_vocab(), special)
    # `map` is lazy, so the search ends at the first token that is a word. All tokens of a large
    # vocabulary, a quarter of a million, would take half a second.
    return VocabularyInfo(ids, _has_words(map(vocabulary.id_to_token, range(ids)), special))


class IdLimit:
    """Rejects token ids that a tokenizer knows, but for which the network has no embedding.

    With such an id, torch fails and makes a GPU unusable, and OpenVINO computes a meaningless
    vector.

    Args:
        known: facts about the tokenizer's vocabulary.

    Raises:
        ValueError: the vocabulary has special tokens only, so all texts would have equal vectors.
    """

    def __init__(self, known: VocabularyInfo) -> None:
        if not known.has_words:
            raise ValueError(
                "its tokenizer has no vocabulary, only special tokens: tokenizer.json is missing, "
                "or what it is made of (such as vocab.txt or sentencepiece.bpe.model)"
            )
        self._ids = known.ids
        self._rows: int | None = None

    def set(self, rows: int) -> None:
        """Set the number of token embeddings; log if the tokenizer has more ids than that."""
        self._rows = rows
        if self._ids > rows:
            logger.warning(
                "The tokenizer has %d ids, and the model has embeddings of %d: texts with other "
                "ids are rejected",
                self._ids,
                rows,
            )

    def check(self, ids: Sequence[int]) -> None:
        """Check the ids of a text.

        Raises:
            InvalidInputError: an id has no embedding.
        """
        if self._rows is not None and (largest := max(ids, default=0)) >= self._rows:
            raise InvalidInputError(
                f"the tokenizer gives a part of it the id {largest}, and the model has embeddings "
                f"of {self._rows} ids only",
                "body",
            )


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
        """Set the number of token embeddings; from now on reject texts with other ids.

        If the padding's id has no embedding, pad with id 0 instead. Texts that are all padded to
        the maximum length (`full`) keep it.

        Args:
            rows: number of token embeddings; ids from this number on are rejected.

        Raises:
            ValueError: even the empty text would be rejected.
        """
        self._limit.set(rows)
        if self._padding.token_id >= rows and self._padding.to != "full":
            self._padding = replace(self._padding, token_id=0)
        try:
            self._limit.check([*self._tokenize("").ids, self._padding.token_id])
        except InvalidInputError as error:
            raise ValueError(f"no text can be read: {error}") from error

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


def decode(vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    """Return the text of token ids in a vocabulary, without special tokens.

    Raises:
        InvalidInputError: an id is not in the vocabulary.
    """
    for token_id in ids:
        if not 0 <= token_id < _IDS or vocabulary.id_to_token(token_id) is None:
            raise unknown_id_error(token_id)
    text: str = vocabulary.decode(ids, skip_special_tokens=True)
    # CLIP's decoder leaves its end-of-word marks in the text.
    mark = getattr(vocabulary.model, "end_of_word_suffix", None)
    return text.replace(mark, " ").strip() if mark else text


def unknown_id_error(token_id: int) -> InvalidInputError:
    """Return the error for an id that is not in the vocabulary."""
    return InvalidInputError(f"{token_id} is the id of no token in this model's vocabulary", "body")


def read(folder: Path, described: Mapping[str, Any], _options: ModelOptions) -> TokenProcessor:
    """Load the input processor that a converted model describes."""
    recipe = TextRecipe.from_json(described)
    vocabulary = read_vocabulary(folder / VOCABULARY)
    return TokenProcessor(Tokenizer(vocabulary, recipe), recipe.padding)

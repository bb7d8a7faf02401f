"""From texts to batches of token ids: each family's way of padding, which decides its vectors."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding
from tokenizers import Tokenizer as Vocabulary

from backends.inputs.cleaning import CLEANING, Cleaning

TokenIds: TypeAlias = list[list[int]]
Integers: TypeAlias = npt.NDArray[np.int64]

VOCABULARY = "tokenizer.json"  # in a converted model's folder


class Tokenize(Protocol):
    """Turns texts into ids, cut to what the model reads, and counts those that were longer."""

    @property
    def truncated_texts(self) -> int:
        """How many texts were cut."""
        ...

    def __call__(self, texts: Sequence[str], /) -> TokenIds:
        """Return the ids of each text, those of a long one cut."""
        ...


# No vocabulary's tokens are so long on average, and no model reads more than its places. A
# tokenizer reads on to the end all the same: a request of 32 texts of 100,000 emojis took 23 s,
# and every search waited meanwhile.
CHARS_PER_TOKEN = 64


def beginning(text: str, tokens: int) -> str:
    """Return what the first tokens of a text can be made of; spaces may vanish and do not count."""
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


@dataclass(frozen=True)
class TextRecipe:
    """How texts become ids, beside the vocabulary; it can be written as JSON.

    Attributes:
        max_length: most tokens of a text.
        cleaning: what is done to a text before.
        padding: how the texts of a batch get one length.
    """

    max_length: int
    cleaning: Cleaning
    padding: Padding


class Tokenizer:
    """Tokenises by a vocabulary of the tokenizers library, which keeps the end token of a cut text.

    Args:
        vocabulary: it is changed: it cuts from now on.
        recipe: what is done.
    """

    def __init__(self, vocabulary: Vocabulary, recipe: TextRecipe) -> None:
        self.truncated_texts = 0
        vocabulary.no_padding()
        vocabulary.enable_truncation(recipe.max_length)
        self._vocabulary = vocabulary
        self._max_length = recipe.max_length
        self._clean = CLEANING[recipe.cleaning]

    def __call__(self, texts: Sequence[str]) -> TokenIds:
        """Return the ids of each text, those of a long one cut."""
        clean = [self._clean(beginning(text, self._max_length)) for text in texts]
        encodings: list[Encoding] = self._vocabulary.encode_batch_fast(clean)
        self.truncated_texts += sum(bool(encoding.overflowing) for encoding in encodings)
        return [encoding.ids for encoding in encodings]


class Collated(NamedTuple):
    """Rows of the input, and what the network takes for them: ids, and a mask if it wants one.

    Each array is [rows, length] int64.
    """

    rows: list[int]
    arrays: tuple[Integers, ...]


@dataclass(frozen=True)
class Padding:
    """How the texts of a batch get one length; it decides the vectors. It can be written as JSON.

    Attributes:
        to: `longest` of the batch, for a tower that is blind to what follows the end token;
            `length`, for one that has learnt from padded texts; `nothing`, for one that is not
            blind and is asked to see each text alone: texts of equal length go together.
        token_id: of the padding.
        length: where every text gets the same.
        masked: whether the network takes a mask, 1 for a token and 0 for padding.
    """

    to: Literal["longest", "length", "nothing"]
    token_id: int = 0
    length: int = 0
    masked: bool = False

    def __call__(self, ids: TokenIds) -> list[Collated]:
        """Collate; together the results cover every row once."""
        if self.to == "nothing":
            return [self._collated(ids, rows) for rows in _rows_of_equal_length(ids)]
        return [self._collated(ids, list(range(len(ids))))]

    def _collated(self, ids: TokenIds, rows: list[int]) -> Collated:
        length = self.length if self.to == "length" else max(len(ids[row]) for row in rows)
        padded = np.full((len(rows), length), self.token_id, np.int64)
        mask = np.zeros_like(padded)
        for place, row in enumerate(rows):
            padded[place, : len(ids[row])] = ids[row]
            mask[place, : len(ids[row])] = 1
        return Collated(rows, (padded, mask) if self.masked else (padded,))


def _rows_of_equal_length(ids: TokenIds) -> list[list[int]]:
    rows_by_length: dict[int, list[int]] = defaultdict(list)
    for row, row_ids in enumerate(ids):
        rows_by_length[len(row_ids)].append(row)
    return list(rows_by_length.values())

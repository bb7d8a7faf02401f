"""Tokenizes a query and a document into one padded sequence of ids.

Source: the reference's reranker container. White space around both texts is removed, the
tokenizer's template joins them, and the longer text is truncated until both fit (`longest_first`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding
from tokenizers import Tokenizer as Vocabulary

from backends.model import EncodeParams, ModelInput, ModelOptions, Pair
from backends.preprocessing.single_part import SinglePart
from backends.preprocessing.tokens import CHARS_OF_A_TOKEN, Padding, beginning, limit_padded_ids
from backends.preprocessing.vocabulary import (
    VOCABULARY,
    IdLimit,
    describe_vocabulary,
    read_vocabulary,
)

_SPECIAL_TOKENS = 3  # special tokens of most templates; used to estimate costs


@dataclass(frozen=True)
class PairRecipe:
    """Parameters of tokenizing pairs, in addition to the vocabulary; stored in `model.json`.

    Attributes:
        padding: maximum length and padding.
        typed: whether the network takes token types (query or document).
    """

    padding: Padding
    typed: bool

    def as_json(self) -> dict[str, object]:
        """Return the parameters as JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, recipe: Mapping[str, Any]) -> PairRecipe:
        """Read the parameters from JSON types."""
        return cls(Padding(**recipe["padding"]), recipe["typed"])


class PairProcessor(SinglePart):
    """Tokenizes and pads pairs; equal padded lengths share batches.

    Args:
        vocabulary: the tokenizer; its truncation and padding are turned off.
        recipe: the padding, and whether the network takes token types.
    """

    def __init__(self, vocabulary: Vocabulary, recipe: PairRecipe) -> None:
        vocabulary.no_padding()
        # Pairs are truncated by this class: the tokenizers library would also return every
        # combination of overflowing parts.
        vocabulary.no_truncation()
        self._vocabulary = vocabulary
        self._padding = recipe.padding
        self._typed = recipe.typed
        self._limit = IdLimit(describe_vocabulary(vocabulary))

    def limit_ids(self, rows: int) -> None:
        """Reject pairs with ids that have no embedding; see `limit_padded_ids`."""
        fewest = self._vocabulary.encode("", "").ids
        self._padding = limit_padded_ids(self._limit, rows, self._padding, fewest)

    def estimate(self, pair: Pair) -> int:
        """Estimate the number of tokens, with padding, from the number of characters."""
        tokens = _SPECIAL_TOKENS + sum(len(half) for half in pair) // CHARS_OF_A_TOKEN
        return self._padding.padded_length(min(tokens, self._padding.longest))

    def prepare(self, pair: Pair, _params: EncodeParams) -> ModelInput:
        """Tokenize a pair: return ids, a mask and, if used, token types, each [length] int64."""
        longest = self._padding.longest
        halves = tuple(beginning(half.strip(), longest) for half in pair)
        encoding: Encoding = self._vocabulary.encode_batch_fast([halves])[0]
        ids, types = encoding.ids, encoding.type_ids
        truncated = len(ids) > longest
        if truncated:
            kept = _kept(encoding, longest)
            ids, types = [ids[place] for place in kept], [types[place] for place in kept]
        self._limit.check(ids)
        arrays = self._padding(ids)
        length = len(arrays[0])
        if self._typed:
            arrays = (*arrays, np.pad(np.array(types, np.int64), (0, length - len(types))))
        return ModelInput(arrays, bucket=length, cost=length, tokens=len(ids), truncated=truncated)


def _kept(encoding: Encoding, longest: int) -> list[int]:
    """Return the indexes of a pair's tokens that are kept when truncated to `longest` tokens."""
    by_half: dict[int | None, list[int]] = {None: [], 0: [], 1: []}  # None: special tokens
    for place, half in enumerate(encoding.sequence_ids):
        by_half[half].append(place)
    own, query, document = by_half.values()
    of_query, of_document = longest_first((len(query), len(document)), longest - len(own))
    return sorted([*own, *query[:of_query], *document[:of_document]])


def longest_first(lengths: tuple[int, int], room: int) -> tuple[int, int]:
    """Return how many tokens of the query and of the document are kept, in total at most `room`.

    The longer text is truncated. If the shorter text also exceeds half of `room`, both are
    truncated to half; if `room` is odd, the longer text gets the remaining token.

    Source: `TruncationStrategy::LongestFirst` of the tokenizers library.
    """
    query, document = lengths
    shorter = min(query, document, room // 2)
    return (room - shorter, shorter) if query > document else (shorter, room - shorter)


def read(folder: Path, described: Mapping[str, Any], _options: ModelOptions) -> PairProcessor:
    """Load the input processor that a converted model describes."""
    return PairProcessor(read_vocabulary(folder / VOCABULARY), PairRecipe.from_json(described))

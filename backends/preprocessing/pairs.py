"""From a query and a document to token ids: one sequence of both, of a padded length.

Source: the reference's reranker container. Both lose the blanks at their ends, the tokenizer's own
template puts them together, and of the longer half the end is cut off until both fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding
from tokenizers import Tokenizer as Vocabulary

from backends.model import EncodeParams, ModelInput, ModelOptions, Pair
from backends.preprocessing.single_part import SinglePart
from backends.preprocessing.tokens import (
    CHARS_OF_A_TOKEN,
    VOCABULARY,
    IdLimit,
    Padding,
    beginning,
    known_by,
    read_vocabulary,
)
from errors import InvalidInputError

_SPECIAL_TOKENS = 3  # of most templates; an estimate is corrected


@dataclass(frozen=True)
class PairRecipe:
    """How pairs become ids, beside the vocabulary; it can be written as JSON.

    Attributes:
        padding: the length of a pair, and what fills it up.
        typed: whether the network is told which half a token is of.
    """

    padding: Padding
    typed: bool

    def as_json(self) -> dict[str, object]:
        """Describe it in JSON's types."""
        return asdict(self)

    @classmethod
    def of_json(cls, recipe: Mapping[str, Any]) -> PairRecipe:
        """Read what was described."""
        return cls(Padding(**recipe["padding"]), recipe["typed"])


class PairProcessor(SinglePart):
    """Tokenizes and pads; pairs of one padded length share a pass.

    Args:
        vocabulary: it is changed: it neither cuts nor pads from now on.
        recipe: what is done.
    """

    def __init__(self, vocabulary: Vocabulary, recipe: PairRecipe) -> None:
        vocabulary.no_padding()
        # It could cut as well, but would make each of a long query's pieces a pair with each of a
        # long document's, to tell what it cut off.
        vocabulary.no_truncation()
        self._vocabulary = vocabulary
        self._padding = recipe.padding
        self._typed = recipe.typed
        self._limit = IdLimit(known_by(vocabulary))

    def limit_ids(self, rows: int) -> None:
        """Read no pair with an id that has no embedding; what fills up may be any id.

        Raises:
            ValueError: every pair has one.
        """
        self._limit.set(rows)
        if self._padding.token_id >= rows:
            self._padding = replace(self._padding, token_id=0)
        try:
            self.prepare(Pair("", ""), EncodeParams())
        except InvalidInputError as error:
            raise ValueError(f"no pair can be read: {error}") from error

    def estimate(self, pair: Pair) -> int:
        """Guess the padded tokens from the number of characters."""
        tokens = _SPECIAL_TOKENS + sum(len(half) for half in pair) // CHARS_OF_A_TOKEN
        return self._padding.length_of(min(tokens, self._padding.longest))

    def prepare(self, pair: Pair, _params: EncodeParams) -> ModelInput:
        """Return ids, a mask, and the halves of tokens if they are told, [length] int64 each."""
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
    """Return the places of the tokens of a pair that stay, no more than `longest`."""
    by_half: dict[int | None, list[int]] = {None: [], 0: [], 1: []}  # of None: the template's own
    for place, half in enumerate(encoding.sequence_ids):
        by_half[half].append(place)
    own, query, document = by_half.values()
    of_query, of_document = longest_first((len(query), len(document)), longest - len(own))
    return sorted([*own, *query[:of_query], *document[:of_document]])


def longest_first(lengths: tuple[int, int], room: int) -> tuple[int, int]:
    """Return how many tokens of two halves stay, so that they are `room` together.

    The longer one loses all; where the shorter does not fit into a half of the room either, both
    get that, and the longer one the odd token.

    Source: `TruncationStrategy::LongestFirst` of the tokenizers library.
    """
    query, document = lengths
    shorter = min(query, document, room // 2)
    return (room - shorter, shorter) if query > document else (shorter, room - shorter)


def read(folder: Path, described: Mapping[str, Any], _options: ModelOptions) -> PairProcessor:
    """Make the preparation of a converted model's folder."""
    return PairProcessor(read_vocabulary(folder / VOCABULARY), PairRecipe.of_json(described))

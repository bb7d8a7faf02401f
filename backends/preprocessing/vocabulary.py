"""A tokenizer's vocabulary: its file, facts about it, and checks of token ids."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer as Vocabulary

from errors import InvalidInputError

logger = logging.getLogger(__name__)

VOCABULARY = "tokenizer.json"  # file in a converted model's folder
_IDS = 2**32  # ids of the tokenizers library are smaller
_SPECIAL = re.compile(r"[<\[].*[>\]]", re.DOTALL)  # such as <s> or [CLS]


class VocabularyInfo(NamedTuple):
    """Facts about a tokenizer's vocabulary.

    Attributes:
        ids: the largest id plus 1.
        has_words: whether any token contains a letter or a digit.
    """

    ids: int
    has_words: bool


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
                "or the file that it is made from (such as vocab.txt or sentencepiece.bpe.model)"
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
                f"a token has the id {largest}, and the model has embeddings of {self._rows} ids "
                "only",
                "body",
            )


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

"""SigLIP 1's tokenizer, whose vocabulary is sentencepiece's and not one of the tokenizers library.

Source: transformers' `SiglipTokenizer`. It lower-cases, drops punctuation and extra spaces, and
encodes with the unknown token in front: otherwise sentencepiece swallows the first word's mark.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor

from backends.model import ModelOptions
from backends.preprocessing.text_normalizers import NO_PUNCTUATION
from backends.preprocessing.tokens import (
    Known,
    TextRecipe,
    TokenProcessor,
    Tokens,
    beginning,
    known_of,
    unknown_id,
)

PIECES = "spiece.model"  # the vocabulary, in a converted model's folder
_SPECIAL = "special_tokens.json"
_MARK = "\u2581"  # stands for a space


@dataclass(frozen=True)
class SpecialTokens:
    """Tokens that a text may hold by name.

    Attributes:
        ids: by name; they are not looked up in the vocabulary.
        unknown: the name of the one that stands in front while encoding.
        end: the id at the end of every text.
    """

    ids: dict[str, int]
    unknown: str
    end: int


def write(vocabulary: Path, special: SpecialTokens, folder: Path) -> None:
    """Write what the tokenizer needs into a converted model's folder."""
    shutil.copyfile(vocabulary, folder / PIECES)
    (folder / _SPECIAL).write_text(json.dumps(asdict(special)) + "\n", "utf-8")


def read(folder: Path, described: Mapping[str, Any], _options: ModelOptions) -> TokenProcessor:
    """Make the preparation of a converted model's folder."""
    padding = TextRecipe.of_json(described).padding
    return TokenProcessor(read_tokenizer(folder, padding.longest), padding)


def read_tokenizer(folder: Path, max_length: int) -> Siglip1Tokenizer:
    """Make the tokenizer of a converted model's folder."""
    special = SpecialTokens(**json.loads((folder / _SPECIAL).read_text("utf-8")))
    return Siglip1Tokenizer(folder / PIECES, special, max_length)


class Siglip1Tokenizer:
    """Tokenizes for SigLIP 1, and cuts with the end token kept.

    Args:
        vocabulary: the file of sentencepiece.
        special: the tokens beside it.
        max_length: most tokens of a text.
    """

    def __init__(self, vocabulary: Path, special: SpecialTokens, max_length: int) -> None:
        self._pieces = SentencePieceProcessor(model_file=str(vocabulary))
        self._special = special
        self._max_length = max_length
        self._unknown_pieces = len(self._pieces.encode(special.unknown))
        names = "|".join(map(re.escape, sorted(special.ids, key=len, reverse=True)))
        self._names = re.compile(rf"\s*({names})\s*")

    @property
    def known(self) -> Known:
        """What its vocabulary holds."""
        pieces = {self._pieces.id_to_piece(one): one for one in range(len(self._pieces))}
        return known_of(pieces | self._special.ids, self._special.ids)

    def __call__(self, text: str) -> Tokens:
        """Return the ids of a text, those of a long one cut."""
        ids = list(self._ids(beginning(text, self._max_length)))
        # The end token takes a place, so the text itself fills one less.
        return Tokens(self._ended(ids[: self._max_length - 1]), len(ids) >= self._max_length)

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special ones left out.

        Raises:
            InvalidInputError: one is none of the vocabulary.
        """
        special = set(self._special.ids.values())
        plain = [one for one in ids if one not in special]
        for one in plain:
            if not 0 <= one < len(self._pieces):
                raise unknown_id(one)
        text: str = self._pieces.decode(plain)
        return text

    def _ended(self, ids: list[int]) -> list[int]:
        return ids if ids[-1:] == [self._special.end] else [*ids, self._special.end]

    def _ids(self, text: str) -> Iterator[int]:
        parts = self._names.split(_MARK + text.replace(_MARK, " "))
        if len(parts) > 1 and parts[0] == _MARK:  # the mark alone before a special token
            parts[0] = ""
        for index, part in enumerate(parts):
            if index % 2:
                yield self._special.ids[part]
            elif part:
                yield from self._pieces_of(part)

    def _pieces_of(self, text: str) -> list[int]:
        plain = " ".join(text.lower().translate(NO_PUNCTUATION).split())
        ids: list[int] = self._pieces.encode(self._special.unknown + plain)
        return ids[self._unknown_pieces :]

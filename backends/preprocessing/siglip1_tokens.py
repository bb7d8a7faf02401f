"""SigLIP 1's tokenizer, which uses sentencepiece instead of the tokenizers library.

Source: transformers' `SiglipTokenizer`. It lower-cases a text, removes punctuation and extra
spaces, and encodes it with the unknown token in front. Without that token, sentencepiece would drop
the mark that begins the first word.
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
from backends.preprocessing.tokens import TextRecipe, TokenProcessor, Tokens, beginning
from backends.preprocessing.vocabulary import VocabularyInfo, describe_tokens, unknown_id_error

PIECES = "spiece.model"  # vocabulary file in a converted model's folder
_SPECIAL = "special_tokens.json"
_MARK = "\u2581"  # stands for a space


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens, whose names may occur in a text.

    Attributes:
        ids: name -> token id; sentencepiece does not look these names up.
        unknown: name of the unknown token, which is put in front for encoding.
        end: id of the end token.
    """

    ids: dict[str, int]
    unknown: str
    end: int


def write(vocabulary: Path, special: SpecialTokens, folder: Path) -> None:
    """Write the tokenizer's files into a converted model's folder."""
    shutil.copyfile(vocabulary, folder / PIECES)
    (folder / _SPECIAL).write_text(json.dumps(asdict(special)) + "\n", "utf-8")


def read(folder: Path, described: Mapping[str, Any], _options: ModelOptions) -> TokenProcessor:
    """Load the input processor that a converted model describes."""
    padding = TextRecipe.from_json(described).padding
    return TokenProcessor(read_tokenizer(folder, padding.longest), padding)


def read_tokenizer(folder: Path, max_length: int) -> Siglip1Tokenizer:
    """Load the tokenizer from a converted model's folder."""
    special = SpecialTokens(**json.loads((folder / _SPECIAL).read_text("utf-8")))
    return Siglip1Tokenizer(folder / PIECES, special, max_length)


class Siglip1Tokenizer:
    """The tokenizer of SigLIP 1; a truncated text keeps its end token.

    Args:
        vocabulary: path of the sentencepiece model.
        special: the special tokens.
        max_length: maximum number of tokens of a text.
    """

    def __init__(self, vocabulary: Path, special: SpecialTokens, max_length: int) -> None:
        self._pieces = SentencePieceProcessor(model_file=str(vocabulary))
        self._special = special
        self._max_length = max_length
        self._unknown_pieces = len(self._pieces.encode(special.unknown))
        names = "|".join(map(re.escape, sorted(special.ids, key=len, reverse=True)))
        self._names = re.compile(rf"\s*({names})\s*")

    @property
    def vocabulary_info(self) -> VocabularyInfo:
        """Facts about the tokenizer's vocabulary."""
        pieces = {self._pieces.id_to_piece(number): number for number in range(len(self._pieces))}
        return describe_tokens(pieces | self._special.ids, self._special.ids)

    def __call__(self, text: str) -> Tokens:
        """Tokenize a text, truncated to the maximum length."""
        ids = list(self._ids(beginning(text, self._max_length)))
        # The end token takes one position.
        return Tokens(self._ended(ids[: self._max_length - 1]), len(ids) >= self._max_length)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens.

        Raises:
            InvalidInputError: an id is not in the vocabulary.
        """
        special = set(self._special.ids.values())
        plain = [token_id for token_id in ids if token_id not in special]
        for token_id in plain:
            if not 0 <= token_id < len(self._pieces):
                raise unknown_id_error(token_id)
        text: str = self._pieces.decode(plain)
        return text

    def _ended(self, ids: list[int]) -> list[int]:
        return ids if ids[-1:] == [self._special.end] else [*ids, self._special.end]

    def _ids(self, text: str) -> Iterator[int]:
        parts = self._names.split(_MARK + text.replace(_MARK, " "))
        if len(parts) > 1 and parts[0] == _MARK:  # a lone mark before a special token
            parts[0] = ""
        for index, part in enumerate(parts):
            if index % 2:
                yield self._special.ids[part]
            elif part:
                plain = " ".join(part.lower().translate(NO_PUNCTUATION).split())
                ids = self._pieces.encode(self._special.unknown + plain)
                yield from ids[self._unknown_pieces :]

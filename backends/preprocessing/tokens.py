"""From a text to token ids of a padded length: each family's way of padding decides its vectors."""

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

VOCABULARY = "tokenizer.json"  # in a converted model's folder
_IDS = 2**32  # the tokenizers library takes no larger ones


class Tokens(NamedTuple):
    """The ids of a text, special ones included, and whether it had more than the model reads."""

    ids: list[int]
    truncated: bool


class Known(NamedTuple):
    """Facts about a tokenizer's vocabulary.

    Attributes:
        ids: the largest id plus 1.
        has_words: whether any token contains a letter or a digit.
    """

    ids: int
    has_words: bool


class Tokenize(Protocol):
    """Turns a text into ids, cut to what the model reads, and back; for many threads at a time."""

    @property
    def known(self) -> Known:
        """What its vocabulary holds."""
        ...

    def __call__(self, text: str, /) -> Tokens:
        """Return the ids of a text."""
        ...

    def text_of(self, ids: Sequence[int], /) -> str:
        """Return the text of ids, special ones left out.

        Raises:
            InvalidInputError: one is none of the vocabulary.
        """
        ...


_SPECIAL = re.compile(r"[<\[].*[>\]]", re.DOTALL)  # as all families write them


def known_of(tokens: Mapping[str, int], special: Collection[str]) -> Known:
    """Say what a vocabulary holds.

    Args:
        tokens: their ids, by name.
        special: which of them stand for no text.
    """
    return Known(max(tokens.values(), default=-1) + 1, _has_words(tokens, special))


def _has_words(tokens: Iterable[str | None], special: Collection[str]) -> bool:
    return any(
        any(map(str.isalnum, token)) and token not in special and not _SPECIAL.fullmatch(token)
        for token in tokens
        if token
    )


def read_vocabulary(path: Path) -> Vocabulary:
    """Read a vocabulary of the tokenizers library.

    Raises:
        ValueError: there is none.
    """
    if not path.is_file():
        raise ValueError(f"{path.absolute()} is missing")
    return Vocabulary.from_file(str(path))


def known_by(vocabulary: Vocabulary) -> Known:
    """Say what a vocabulary of the tokenizers library holds."""
    added = vocabulary.get_added_tokens_decoder().values()
    special = {token.content for token in added if token.special}
    ids = vocabulary.get_vocab_size()
    if ids == 0 or vocabulary.id_to_token(ids - 1) is None:  # they have gaps
        return known_of(vocabulary.get_vocab(), special)
    # Of a quarter of a million tokens, all together would take half a second.
    return Known(ids, _has_words(map(vocabulary.id_to_token, range(ids)), special))


class IdLimit:
    """Which ids a network has an embedding for, and a tokenizer that may know others.

    Torch fails on an id without an embedding, and takes a GPU along; OpenVINO computes a vector
    that means nothing.

    Args:
        known: what the tokenizer's vocabulary holds.

    Raises:
        ValueError: nothing but special tokens: texts would differ in nothing.
    """

    def __init__(self, known: Known) -> None:
        if not known.has_words:
            raise ValueError(
                "its tokenizer has no vocabulary, only special tokens: tokenizer.json is missing, "
                "or what it is made of (such as vocab.txt or sentencepiece.bpe.model)"
            )
        self._ids = known.ids
        self._rows: int | None = None

    def set(self, rows: int) -> None:
        """Set how many ids have an embedding; ids that no text uses are no fault."""
        self._rows = rows
        if self._ids > rows:
            logger.warning(
                "The tokenizer has %d ids, and the model embeddings of %d: a text with one of the "
                "others is refused",
                self._ids,
                rows,
            )

    def check(self, ids: Sequence[int]) -> None:
        """Look at the ids of a text.

        Raises:
            InvalidInputError: one has no embedding.
        """
        if self._rows is not None and (largest := max(ids, default=0)) >= self._rows:
            raise InvalidInputError(
                f"the tokenizer makes id {largest} of a part of it, and the model has embeddings "
                f"of {self._rows} ids only",
                "body",
            )


# No vocabulary's tokens are so long on average, and no model reads more than its places. A
# tokenizer reads on to the end all the same: a request of 32 texts of 100,000 emojis took 23 s.
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


# Tokens. OpenVINO prepares itself for every new shape, and few texts have one exact length. For
# ViT-B/32's text tower in float32, on 2 cores with AMX, by the measured times of its passes (texts
# of 3 to 77 tokens, most of them short, 16 waiting): rounded to 1, 2, 4, 8 and 16 tokens 104, 121,
# 135, 147 and 141 texts a second; 82 where a batch is padded to its longest. With 4 waiting 84, 89,
# 93, 102 and 104, against 102. After all shapes of 1 to 16 texts it takes 98, 72 and 55 MB more for
# 4, 8 and 16; one seen for the first time about 5 ms more. A lone text of 8 tokens takes 10 ms, of
# 16 12, of 77 28. To short texts 8 is much: of ten words each, 16 clients got 0.83 of what they get
# where 4 is the step.
_SHORT, _ROUNDED_SHORT, _ROUNDED = 32, 4, 8


@dataclass(frozen=True)
class Padding:
    """To which length a text is padded, and by what; it decides the vectors.

    The length is the text's own affair, never its batch mates': half precision rounds otherwise
    for another length, and a vector shall not depend on who else asked.

    Attributes:
        to: `rounded` up from its own length, for a tower that is blind to what follows the end;
            `full`, for one that has learnt from padded texts; `nothing`, for one that is not blind
            and is asked to see each text as it is.
        longest: most tokens of a text: the model's last position.
        token_id: of the padding.
        masked: whether the network takes a mask, 1 for a token and 0 for padding.
    """

    to: Literal["rounded", "full", "nothing"]
    longest: int
    token_id: int = 0
    masked: bool = False

    def length_of(self, tokens: int) -> int:
        """Return the padded length of a text that has so many tokens."""
        if self.to == "full":
            return self.longest
        if self.to == "nothing":
            return tokens
        step = _ROUNDED_SHORT if tokens <= _SHORT else _ROUNDED
        return min(-(-max(tokens, 1) // step) * step, self.longest)

    def __call__(self, ids: Sequence[int]) -> Arrays:
        """Pad: ids, and a mask if the network wants one, each [length] int64."""
        padded = np.full(self.length_of(len(ids)), self.token_id, np.int64)
        padded[: len(ids)] = ids
        if not self.masked:
            return (padded,)
        mask = np.zeros_like(padded)
        mask[: len(ids)] = 1
        return padded, mask


CHARS_OF_A_TOKEN = 4  # of English, about; an estimate is corrected


class TokenProcessor(SinglePart):
    """Tokenizes and pads; texts of one padded length share a pass.

    Args:
        tokenize: the family's tokenizer.
        padding: the length of a text, and what fills it up.
    """

    def __init__(self, tokenize: Tokenize, padding: Padding) -> None:
        self._tokenize = tokenize
        self._padding = padding
        self._limit = IdLimit(tokenize.known)

    def limit_ids(self, rows: int) -> None:
        """Read no text with an id that has no embedding; what fills up may be any id.

        Raises:
            ValueError: every text has one.
        """
        self._limit.set(rows)
        if self._padding.token_id >= rows and self._padding.to != "full":
            self._padding = replace(self._padding, token_id=0)
        try:
            self._limit.check([*self._tokenize("").ids, self._padding.token_id])
        except InvalidInputError as error:
            raise ValueError(f"no text can be read: {error}") from error

    def estimate(self, text: str) -> int:
        """Guess the padded tokens from the number of characters."""
        tokens = 2 + len(text) // CHARS_OF_A_TOKEN  # a beginning, an end
        return self._padding.length_of(min(tokens, self._padding.longest))

    def prepare(self, text: str, _params: EncodeParams) -> ModelInput:
        """Return ids [length] int64, and a mask if the network takes one."""
        ids, truncated = self._tokenize(text)
        self._limit.check(ids)
        arrays = self._padding(ids)
        length = len(arrays[0])
        return ModelInput(arrays, bucket=length, cost=length, tokens=len(ids), truncated=truncated)

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of ids.

        Raises:
            InvalidInputError: one is none of the vocabulary.
        """
        return self._tokenize.text_of(ids)


@dataclass(frozen=True)
class TextRecipe:
    """How texts become ids, beside the vocabulary; it can be written as JSON.

    Attributes:
        cleaning: what is done to a text before.
        padding: the length of a text, and what fills it up.
    """

    cleaning: Normalizer
    padding: Padding

    def as_json(self) -> dict[str, object]:
        """Describe it in JSON's types."""
        return asdict(self)

    @classmethod
    def of_json(cls, recipe: Mapping[str, Any]) -> TextRecipe:
        """Read what was described."""
        return cls(recipe["cleaning"], Padding(**recipe["padding"]))


class Tokenizer:
    """Tokenizes by a vocabulary of the tokenizers library, which keeps the end token of a cut text.

    Args:
        vocabulary: it is changed: it cuts from now on.
        recipe: what is done.
    """

    def __init__(self, vocabulary: Vocabulary, recipe: TextRecipe) -> None:
        vocabulary.no_padding()
        vocabulary.enable_truncation(recipe.padding.longest)
        self._vocabulary = vocabulary
        self._max_length = recipe.padding.longest
        self._clean = NORMALIZERS[recipe.cleaning]

    @property
    def known(self) -> Known:
        """What its vocabulary holds."""
        return known_by(self._vocabulary)

    def __call__(self, text: str) -> Tokens:
        """Return the ids of a text, those of a long one cut."""
        clean = self._clean(beginning(text, self._max_length))
        encoding: Encoding = self._vocabulary.encode_batch_fast([clean])[0]
        return Tokens(encoding.ids, bool(encoding.overflowing))

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special ones left out.

        Raises:
            InvalidInputError: one is none of the vocabulary.
        """
        return decode(self._vocabulary, ids)


def decode(vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    """Return the text of ids, special ones left out; not beside a thread that changes the object.

    Raises:
        InvalidInputError: one is none of the vocabulary.
    """
    for one in ids:
        if not 0 <= one < _IDS or vocabulary.id_to_token(one) is None:
            raise unknown_id(one)
    text: str = vocabulary.decode(ids, skip_special_tokens=True)
    # CLIP's vocabulary marks the ends of words, and its decoder leaves the marks in.
    mark = getattr(vocabulary.model, "end_of_word_suffix", None)
    return text.replace(mark, " ").strip() if mark else text


def unknown_id(one: int) -> InvalidInputError:
    """Say that an id is none of the vocabulary."""
    return InvalidInputError(f"{one} is the id of no token in this model's vocabulary", "body")


def read(folder: Path, described: Mapping[str, Any], _options: ModelOptions) -> TokenProcessor:
    """Make the preparation of a converted model's folder."""
    recipe = TextRecipe.of_json(described)
    vocabulary = read_vocabulary(folder / VOCABULARY)
    return TokenProcessor(Tokenizer(vocabulary, recipe), recipe.padding)

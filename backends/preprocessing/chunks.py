"""A text in sentences: each is computed by itself, and the text's vector is their mean.

Source: the reference's text container. Blank texts, which it cannot answer, are read as they are
in one piece, as it reads every text where `T2V_TRANSFORMERS_DIRECT_TOKENIZE` is set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backends.model import Chunks, EncodeParams, InputProcessor, ModelInput, ModelOptions
from backends.preprocessing import tokens
from backends.preprocessing.prompts import prefixed, wants_prefixes
from backends.preprocessing.single_part import SinglePart
from errors import InvalidInputError

LONGEST_CHUNK = 500  # tokens; the reference cuts a sentence here, or a text read in one piece
_CHARS_OF_A_SENTENCE = 100  # of English, about; an estimate is corrected


@dataclass(frozen=True)
class Reading:
    """How the texts of a model are read; the operator says so, and it shapes vectors.

    Attributes:
        is_direct: in one piece, and not in sentences.
        has_prefixes: with `<task>: ` in front, as the model has learnt them.
    """

    is_direct: bool
    has_prefixes: bool

    def __str__(self) -> str:
        """Name it; readings of equal names give equal vectors."""
        splitter = "direct" if self.is_direct else "punkt-english"
        return f"{splitter}, prefixes" if self.has_prefixes else splitter

    @classmethod
    def of(cls, options: ModelOptions, prefixes: bool | None) -> Reading:
        """Read it from how a model is to be loaded.

        Args:
            options: what the operator says.
            prefixes: what the model's folder says; it beats them.
        """
        return cls(options.direct_tokenize, wants_prefixes(options, prefixes))


class ChunkProcessor(SinglePart):
    """Splits texts into sentences, and prepares each by another preparation.

    Args:
        tokens: of a sentence.
        poolings: that the network computes, by name and in this order; the first is the default.
            None: it pools in one way, whatever is asked for.
        reading: how texts are read.
        every: of so many sentences the first is read, and counts for itself alone.
    """

    def __init__(
        self, tokens: InputProcessor, poolings: Sequence[str], reading: Reading, every: int = 1
    ) -> None:
        self._tokens = tokens
        self._poolings = {name: place for place, name in enumerate(poolings)}
        self._reading = reading
        self._every = every
        self.reading = str(reading)
        self.is_chunked = not reading.is_direct
        self._split: Callable[[str], list[str]] = list_of_one
        if not reading.is_direct:
            from backends.preprocessing import sentences  # only who splits pays for nltk

            self._split = sentences.split

    def resolve(self, params: EncodeParams) -> EncodeParams:
        """Keep the pooling, and the task where it is written in front of a text.

        Raises:
            InvalidInputError: there is no such pooling.
        """
        task = params.task if self._reading.has_prefixes else ""
        if not self._poolings:
            return EncodeParams(task=task)
        default, *_ = self._poolings
        pooling = params.pooling or default
        if pooling not in self._poolings:
            known = " and ".join(self._poolings)
            raise InvalidInputError(
                f"unknown pooling_strategy {pooling!r}; this model knows {known}", "config"
            )
        return EncodeParams(pooling, task)

    def estimate(self, text: str) -> int:
        """Guess the padded tokens from the number of characters."""
        if self._reading.is_direct:
            return self._tokens.estimate(text)
        whole, rest = divmod(len(text), _CHARS_OF_A_SENTENCE)
        if not whole:
            return self._tokens.estimate(text)
        full = self._tokens.estimate(text[:_CHARS_OF_A_SENTENCE])
        return whole * full + self._tokens.estimate(text[:rest])

    def split(self, text: str, params: EncodeParams) -> Chunks:
        """Return a text's sentences, or itself where there are none."""
        if params.task:
            text = prefixed(text, params.task)
        chunks = self._split(text) or [text]
        return Chunks(chunks[:: self._every], len(chunks))

    def prepare(self, chunk: str, params: EncodeParams) -> ModelInput:
        """Return ids and a mask of a sentence, [length] int64 each."""
        prepared = self._tokens.prepare(chunk, params)
        pooling_index = self._poolings.get(params.pooling, 0)
        return replace(prepared, pooling_index=pooling_index) if pooling_index else prepared

    def limit_ids(self, rows: int) -> None:
        """Let the other read no text with an id that has no embedding."""
        self._tokens.limit_ids(rows)

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of ids.

        Raises:
            InvalidInputError: one is none of the vocabulary.
        """
        return self._tokens.text_of(ids)


def list_of_one(text: str) -> list[str]:
    """Leave a text in one piece."""
    return [text]


def read(folder: Path, described: Mapping[str, Any], options: ModelOptions) -> ChunkProcessor:
    """Make the preparation of a converted model's folder."""
    reading = Reading.of(options, described["prefixes"])
    of_tokens = tokens.read(folder, described["tokens"], options)
    return ChunkProcessor(of_tokens, described["poolings"], reading, described.get("every", 1))

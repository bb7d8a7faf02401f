"""Splits a text into sentences; the vector of the text is the mean of the sentences' vectors.

Source: the reference's text container, except for blank texts. The reference returns an error for
them; here they are embedded in one piece. With `T2V_TRANSFORMERS_DIRECT_TOKENIZE` every text is
embedded in one piece.
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

LONGEST_CHUNK = 500  # tokens; longer chunks are truncated, as in the reference
_CHARS_OF_A_SENTENCE = 100  # typical for English; used to estimate costs


@dataclass(frozen=True)
class Reading:
    """The operator's settings of text preprocessing, which change vectors.

    Attributes:
        is_direct: whether texts are embedded in one piece, and not split into sentences.
        has_prefixes: whether `<task>: ` is written in front of a text.
    """

    is_direct: bool
    has_prefixes: bool

    def __str__(self) -> str:
        """Return a string for the vector space; equal strings mean equal vectors."""
        splitter = "direct" if self.is_direct else "punkt-english"
        return f"{splitter}, prefixes" if self.has_prefixes else splitter

    @classmethod
    def from_options(cls, options: ModelOptions, prefixes: bool | None) -> Reading:
        """Return the settings for a model.

        Args:
            options: the operator's options.
            prefixes: the value in the model folder, which overrides the options; None if the
                folder has no value.
        """
        return cls(options.direct_tokenize, wants_prefixes(options, prefixes))


class ChunkProcessor(SinglePart):
    """Splits texts into sentences, which another input processor preprocesses.

    Args:
        tokens: the input processor of sentences.
        poolings: names of the network's poolings, in order; the first is the default. Empty if the
            network has a single pooling.
        reading: the operator's settings.
        every: embed only every n-th sentence, beginning with the first; 1 embeds all. The divisor
            counts all sentences.
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
        self._split: Callable[[str], list[str]] = keep_whole
        if not reading.is_direct:
            from backends.preprocessing import sentences  # imported only if texts are split

            self._split = sentences.split

    def resolve(self, params: EncodeParams) -> EncodeParams:
        """Return the parameters that this model uses: the pooling, and the task with prefixes.

        Raises:
            InvalidInputError: the pooling is unknown.
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
        """Estimate the number of tokens, with padding, from the number of characters."""
        if self._reading.is_direct:
            return self._tokens.estimate(text)
        whole, rest = divmod(len(text), _CHARS_OF_A_SENTENCE)
        if not whole:
            return self._tokens.estimate(text)
        full = self._tokens.estimate(text[:_CHARS_OF_A_SENTENCE])
        return whole * full + self._tokens.estimate(text[:rest])

    def split(self, text: str, params: EncodeParams) -> Chunks:
        """Split a text into sentences; a blank text is a single chunk."""
        if params.task:
            text = prefixed(text, params.task)
        chunks = self._split(text) or [text]
        return Chunks(chunks[:: self._every], len(chunks))

    def prepare(self, chunk: str, params: EncodeParams) -> ModelInput:
        """Tokenize a sentence: return ids and a mask, each [length] int64."""
        prepared = self._tokens.prepare(chunk, params)
        pooling_index = self._poolings.get(params.pooling, 0)
        return replace(prepared, pooling_index=pooling_index) if pooling_index else prepared

    def limit_ids(self, rows: int) -> None:
        """Reject texts with ids that have no embedding."""
        self._tokens.limit_ids(rows)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids.

        Raises:
            InvalidInputError: an id is not in the vocabulary.
        """
        return self._tokens.decode(ids)


def keep_whole(text: str) -> list[str]:
    """Return a text as a single chunk."""
    return [text]


def read(folder: Path, described: Mapping[str, Any], options: ModelOptions) -> ChunkProcessor:
    """Load the input processor that a converted model describes."""
    reading = Reading.from_options(options, described["prefixes"])
    of_tokens = tokens.read(folder, described["tokens"], options)
    return ChunkProcessor(of_tokens, described["poolings"], reading, described.get("every", 1))

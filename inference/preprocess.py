"""Preprocesses inputs: reads them within limits, splits them into chunks, and tokenizes the chunks.

A preprocessor decides by an input's size whether to run inline or in a thread: on the event loop a
long input would block all requests for over a millisecond.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Any, Protocol

from backends.model import EncodeParams, InputProcessor, Pair
from errors import InvalidInputError, RequestTooLargeError
from inference.request import Content
from inference.timings import ItemTimes
from inference.work import ChunkInputs

_INLINE_CHARS = 1_000  # maximum length of a text that is not split
_INLINE_CHARS_TO_SPLIT = 300  # finding sentences takes 2 us a character, 7 us at worst
_INLINE_CHARS_TO_READ = 100_000  # hashing them takes 0.1 ms
_INLINE_IDS = 1_000  # maximum number of token ids to decode to text inline
_SAMPLE = "a text "
_LONGER = 4  # factor between the lengths of two sample texts
# Limits of a text that is split: they bound a thread's seconds, and the number of chunks.
_MAX_CHARS = 1_000_000
_MAX_SENTENCES = 10_000


class Preprocessor(Protocol):
    """Reads and preprocesses inputs of one modality; thread-safe."""

    def reads_inline(self, content: Content) -> bool:
        """Return whether `read` may be called on the event loop."""
        ...

    def read(self, content: Content, times: ItemTimes) -> Any:
        """Return the content to preprocess: a text, a pair, or the bytes of an image file.

        Raises:
            InvalidInputError: the content is invalid.
            RequestTooLargeError: the content exceeds the limits.
        """
        ...

    def runs_inline(self, content: Any) -> bool:
        """Return whether preprocessing may run on the event loop."""
        ...

    def __call__(self, content: Any, params: EncodeParams, times: ItemTimes) -> ChunkInputs:
        """Split and preprocess a content.

        Raises:
            InvalidInputError: the model cannot read the content.
            RequestTooLargeError: the content exceeds the limits.
        """
        ...

    def samples(self) -> Iterator[Any]:
        """Yield contents for trial batches: a small one, and larger ones up to the largest."""
        ...


class TextPreprocessor:
    """Splits texts into sentences, if the model needs it, and tokenizes them.

    Args:
        processor: the tower's input processor.
        max_chars: maximum characters of a text or a sentence.
    """

    def __init__(self, processor: InputProcessor, max_chars: int) -> None:
        self._processor = processor
        self._max_chars = max_chars
        is_chunked = processor.is_chunked
        self._max_chars_in_all = max(_MAX_CHARS, max_chars) if is_chunked else max_chars
        self._inline_chars = _INLINE_CHARS_TO_SPLIT if is_chunked else _INLINE_CHARS

    def reads_inline(self, content: Content) -> bool:
        """Return whether a text is short enough to read on the event loop."""
        return len(content) <= (_INLINE_CHARS_TO_READ if isinstance(content, str) else _INLINE_IDS)

    def read(self, content: Content, times: ItemTimes) -> str:
        """Return the text; token ids are decoded.

        Raises:
            InvalidInputError: an id is not in the vocabulary.
            RequestTooLargeError: the text is too long.
        """
        if isinstance(content, Pair):
            raise InvalidInputError("expected a text, and not a query and a document", "body")
        text = content if isinstance(content, str) else self._processor.decode(content)
        if len(text) > self._max_chars_in_all:
            raise RequestTooLargeError(
                f"{len(text)} characters; at most {self._max_chars_in_all} are allowed",
                "text_length",
            )
        return text

    def runs_inline(self, content: str) -> bool:
        """Return whether a text is short enough to preprocess on the event loop."""
        return len(content) <= self._inline_chars

    def __call__(self, content: str, params: EncodeParams, times: ItemTimes) -> ChunkInputs:
        """Split a text into sentences, and tokenize each distinct sentence.

        Raises:
            InvalidInputError: the model cannot read the text.
            RequestTooLargeError: a sentence is too long, or there are too many sentences.
        """
        times.preprocess_began_s = time.perf_counter()
        parts = self._processor.split(content, params)
        if len(parts.items) > _MAX_SENTENCES:
            raise RequestTooLargeError(
                f"{len(parts.items)} sentences; at most {_MAX_SENTENCES} are allowed",
                "text_length",
            )
        longest = max(map(len, parts.items))
        if longest > self._max_chars:
            raise RequestTooLargeError(
                f"a sentence of {longest} characters; at most {self._max_chars} are allowed",
                "text_length",
            )
        distinct = {part: place for place, part in enumerate(dict.fromkeys(parts.items))}
        inputs = [self._processor.prepare(part, params) for part in distinct]
        if len(parts.items) == 1:
            chunks = ChunkInputs(inputs, divisor=parts.divisor)
        else:
            keys = [hashlib.sha256(f"{params.key}\n{part}".encode()).digest() for part in distinct]
            places = [distinct[part] for part in parts.items]
            chunks = ChunkInputs(inputs, keys, places, parts.divisor)
        times.preprocessed_s = time.perf_counter()
        return chunks

    def samples(self) -> Iterator[str]:
        """Yield texts for trial batches, from a short text to one of the maximum length."""
        for times in _lengths(self._max_chars // len(_SAMPLE)):
            yield _SAMPLE * times


class PairPreprocessor:
    """Tokenizes pairs of a query and a document.

    Args:
        processor: the tower's input processor.
        max_chars: maximum characters of the query and of the document.
    """

    def __init__(self, processor: InputProcessor, max_chars: int) -> None:
        self._processor = processor
        self._max_chars = max_chars

    def reads_inline(self, content: Content) -> bool:
        """Return whether query and document are short enough to read on the event loop."""
        return sum(map(len, _pair(content))) <= _INLINE_CHARS_TO_READ

    def read(self, content: Content, times: ItemTimes) -> Pair:
        """Return the pair, after checking its lengths.

        Raises:
            InvalidInputError: the content is no pair.
            RequestTooLargeError: the query or the document is too long.
        """
        pair = _pair(content)
        for half, text in zip(("the query", "the document"), pair, strict=True):
            if len(text) > self._max_chars:
                raise RequestTooLargeError(
                    f"{half} has {len(text)} characters; at most {self._max_chars} are allowed",
                    "text_length",
                )
        return pair

    def runs_inline(self, content: Pair) -> bool:
        """Return whether a pair is short enough to preprocess on the event loop."""
        return sum(map(len, content)) <= _INLINE_CHARS

    def __call__(self, content: Pair, params: EncodeParams, times: ItemTimes) -> ChunkInputs:
        """Tokenize a pair.

        Raises:
            InvalidInputError: the model cannot read the pair.
        """
        times.preprocess_began_s = time.perf_counter()
        chunks = ChunkInputs([self._processor.prepare(content, params)])
        times.preprocessed_s = time.perf_counter()
        return chunks

    def samples(self) -> Iterator[Pair]:
        """Yield pairs for trial batches, whose documents grow to the maximum length."""
        for times in _lengths(self._max_chars // len(_SAMPLE)):
            yield Pair("a", _SAMPLE * times)


def _lengths(longest: int) -> Iterator[int]:
    """Yield 1, 4, 16 and so on, up to the longest."""
    times = 1
    while times < longest:
        yield times
        times *= _LONGER
    yield max(longest, 1)


def _pair(content: Content) -> Pair:
    if not isinstance(content, Pair):
        raise InvalidInputError("expected a query and a document", "body")
    return content

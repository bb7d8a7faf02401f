"""From an input to chunks that a network can compute: read within limits, split, preprocessed.

Inline or in a thread is decided here, by size: on the event loop a long input would hold up every
other request for a millisecond and more.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any, Protocol

from backends.model import EncodeParams, InputProcessor, Pair
from errors import InvalidInputError, RequestTooLargeError
from inference.request import Content
from inference.timings import ItemTimes
from inference.work import ChunkInputs

_INLINE_CHARS = 1_000  # of a text that is tokenized in one piece
_INLINE_CHARS_TO_SPLIT = 300  # finding sentences takes 2 us a character, 7 at worst
_INLINE_CHARS_TO_READ = 100_000  # digesting them takes a tenth of a millisecond
_INLINE_IDS = 1_000  # of tokens that are turned into their text
# Of a text that is split: seconds of a thread, and a chunk for each sentence.
_MAX_CHARS = 1_000_000
_MAX_SENTENCES = 10_000


class Preprocessor(Protocol):
    """Reads and preprocesses the inputs of one modality; many threads may call it at a time."""

    def reads_inline(self, content: Content) -> bool:
        """Tell whether `read` may be called on the event loop."""
        ...

    def read(self, content: Content, times: ItemTimes) -> Any:
        """Return the content that is preprocessed: a text, a pair, or the bytes of an image's file.

        Raises:
            InvalidInputError: it is not what it should be.
            RequestTooLargeError: it is beyond the limits.
        """
        ...

    def runs_inline(self, content: Any) -> bool:
        """Tell whether it may be called on the event loop."""
        ...

    def __call__(self, content: Any, params: EncodeParams, times: ItemTimes) -> ChunkInputs:
        """Split and preprocess what was read.

        Raises:
            InvalidInputError: it cannot be read.
            RequestTooLargeError: it is beyond the limits.
        """
        ...

    def sample(self) -> Any:
        """Return an input, opened, to try the model on."""
        ...


class TextPreprocessor:
    """Texts: split into sentences where the model wants them, and tokenized.

    Args:
        processor: of the tower.
        max_chars: of what is tokenized in one piece.
    """

    def __init__(self, processor: InputProcessor, max_chars: int) -> None:
        self._processor = processor
        self._max_chars = max_chars
        is_chunked = processor.is_chunked
        self._max_chars_in_all = max(_MAX_CHARS, max_chars) if is_chunked else max_chars
        self._inline_chars = _INLINE_CHARS_TO_SPLIT if is_chunked else _INLINE_CHARS

    def reads_inline(self, content: Content) -> bool:
        """Tell whether a text is not very long."""
        return len(content) <= (_INLINE_CHARS_TO_READ if isinstance(content, str) else _INLINE_IDS)

    def read(self, content: Content, times: ItemTimes) -> str:
        """Return the text, which may come as token ids.

        Raises:
            InvalidInputError: an id is no token's.
            RequestTooLargeError: it is too long.
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
        """Tell whether a text is short."""
        return len(content) <= self._inline_chars

    def __call__(self, content: str, params: EncodeParams, times: ItemTimes) -> ChunkInputs:
        """Find the sentences, and tokenize each distinct one.

        Raises:
            InvalidInputError: the model cannot read it.
            RequestTooLargeError: a sentence is too long, or there are too many.
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

    def sample(self) -> str:
        """Return a short text."""
        return "a text"


class PairPreprocessor:
    """Pairs of a query and a document, tokenized together.

    Args:
        processor: of the tower.
        max_chars: of either half.
    """

    def __init__(self, processor: InputProcessor, max_chars: int) -> None:
        self._processor = processor
        self._max_chars = max_chars

    def reads_inline(self, content: Content) -> bool:
        """Tell whether both halves together are not very long."""
        return sum(map(len, _pair(content))) <= _INLINE_CHARS_TO_READ

    def read(self, content: Content, times: ItemTimes) -> Pair:
        """Return the pair.

        Raises:
            InvalidInputError: it is none.
            RequestTooLargeError: a half of it is too long.
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
        """Tell whether a pair is short."""
        return sum(map(len, content)) <= _INLINE_CHARS

    def __call__(self, content: Pair, params: EncodeParams, times: ItemTimes) -> ChunkInputs:
        """Tokenize.

        Raises:
            InvalidInputError: the model cannot read it.
        """
        times.preprocess_began_s = time.perf_counter()
        chunks = ChunkInputs([self._processor.prepare(content, params)])
        times.preprocessed_s = time.perf_counter()
        return chunks

    def sample(self) -> Pair:
        """Return a short pair."""
        return Pair("a", "b")


def _pair(content: Content) -> Pair:
    if not isinstance(content, Pair):
        raise InvalidInputError("expected a query and a document", "body")
    return content

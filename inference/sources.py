"""How the inputs of each modality come in: read from a request, and prepared in a thread.

content of the request -> read -> Source: what is to be prepared, and the digest that names it
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple, Protocol

from backends.model import Parts, Preparation, Prepared, Shaping
from errors import RequestTooLargeError
from inference.timings import Timings

# Longer texts are tokenised in a thread: on the event loop they would hold up every request for a
# millisecond and more.
_QUICK_CHARS = 1_000
_QUICK_CHARS_TO_READ = 100_000  # digesting them takes a tenth of a millisecond
_QUICK_CHARS_TO_SPLIT = 300  # finding sentences takes 2 us a character, 7 at worst
# Of a text that is split: seconds of a thread, and a task for each sentence.
_MOST_CHARS = 1_000_000
_MOST_SENTENCES = 10_000


class Source(NamedTuple):
    """An input as it was read.

    Attributes:
        content: the text, or the bytes of the image's file.
        digest: of it.
    """

    content: Any
    digest: bytes


class Reader(Protocol):
    """Brings the inputs of one modality from a request to their preparation."""

    def is_quick_to_read(self, content: str) -> bool:
        """Tell whether it may be read on the event loop."""
        ...

    def read(self, content: str, timings: Timings) -> Source:
        """Read what a request holds.

        Raises:
            InvalidInputError: it is not what it should be.
            RequestTooLargeError: it is beyond the limits.
        """
        ...

    def is_quick_to_split(self, content: Any) -> bool:
        """Tell whether it may be split on the event loop."""
        ...

    def split(self, preparation: Preparation, content: Any, shaping: Shaping) -> Parts:
        """Split an input.

        Raises:
            RequestTooLargeError: a part is beyond the limits, or there are too many.
        """
        ...

    def is_quick_to_prepare(self, part: Any) -> bool:
        """Tell whether it may be prepared on the event loop."""
        ...

    def prepare(
        self, preparation: Preparation, part: Any, shaping: Shaping, timings: Timings
    ) -> Prepared:
        """Open a part and prepare it.

        Raises:
            InvalidInputError: it cannot be read.
            RequestTooLargeError: it is beyond the limits.
        """
        ...

    def sample(self) -> Any:
        """Return a part, opened, to try the model on."""
        ...


class TextReader:
    """Texts: as they are.

    Args:
        max_chars: of what is tokenised in one piece.
        splits: whether that is a sentence, and not the text.
    """

    def __init__(self, max_chars: int, splits: bool) -> None:
        self._max_chars = max_chars
        self._max_chars_in_all = max(_MOST_CHARS, max_chars) if splits else max_chars

    def is_quick_to_read(self, content: str) -> bool:
        """Tell whether a text is not very long."""
        return len(content) <= _QUICK_CHARS_TO_READ

    def read(self, content: str, timings: Timings) -> Source:
        """Check the length.

        Raises:
            RequestTooLargeError: it is too long.
        """
        _check_chars(content, self._max_chars_in_all)
        return Source(content, hashlib.sha256(content.encode()).digest())

    def is_quick_to_split(self, content: str) -> bool:
        """Tell whether a text is short."""
        return len(content) <= _QUICK_CHARS_TO_SPLIT

    def split(self, preparation: Preparation, content: str, shaping: Shaping) -> Parts:
        """Find the sentences, and check their lengths."""
        parts = preparation.split(content, shaping)
        if len(parts.items) > _MOST_SENTENCES:
            raise RequestTooLargeError(
                f"{len(parts.items)} sentences; at most {_MOST_SENTENCES} are allowed",
                "text_length",
            )
        for sentence in parts.items:
            _check_chars(sentence, self._max_chars, "a sentence of ")
        return parts

    def is_quick_to_prepare(self, part: str) -> bool:
        """Tell whether a text is short."""
        return len(part) <= _QUICK_CHARS

    def prepare(
        self, preparation: Preparation, part: str, shaping: Shaping, timings: Timings
    ) -> Prepared:
        """Tokenise."""
        with timings.measure("tokenise"):
            return preparation.prepare(part, shaping)

    def sample(self) -> str:
        """Return a short text."""
        return "a text"


def _check_chars(text: str, most: int, what: str = "") -> None:
    if len(text) > most:
        raise RequestTooLargeError(
            f"{what}{len(text)} characters; at most {most} are allowed", "text_length"
        )

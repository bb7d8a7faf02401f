"""What the families' libraries do to a text before they tokenize it, each by a name."""

from __future__ import annotations

import html
import string
from collections.abc import Callable
from typing import Literal, TypeAlias

import ftfy

Normalizer: TypeAlias = Literal[
    "nothing", "lower", "open_clip/lower", "open_clip/whitespace", "open_clip/canonicalize"
]


def _fixed(text: str) -> str:
    """Undo a wrong encoding and HTML's escapes, and write runs of whitespace as one space.

    Source: open_clip's `basic_clean` and `whitespace_clean`.
    """
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def _canonical(text: str) -> str:
    """Fix, and leave punctuation out.

    Source: open_clip's `canonicalize_text`, which has it from big_vision.
    """
    plain = _fixed(text).replace("_", " ").translate(NO_PUNCTUATION).lower()
    return " ".join(plain.split())


NO_PUNCTUATION = str.maketrans("", "", string.punctuation)

NORMALIZERS: dict[Normalizer, Callable[[str], str]] = {
    "nothing": str,
    "lower": str.lower,
    "open_clip/lower": lambda text: _fixed(text).lower(),
    "open_clip/whitespace": _fixed,
    "open_clip/canonicalize": _canonical,
}

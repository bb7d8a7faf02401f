"""The text normalizers that families apply before tokenizing; `model.json` names one of them."""

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
    """Fix wrongly decoded text, unescape HTML, and collapse white space.

    Source: open_clip's `basic_clean` and `whitespace_clean`.
    """
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def _canonical(text: str) -> str:
    """Normalize like `_fixed`, then lower-case and remove punctuation.

    Source: open_clip's `canonicalize_text`, from big_vision.
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

"""Images in a request: detects base64 and data URLs, and describes images for OpenAPI."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

Base64Image = Annotated[
    str,
    msgspec.Meta(
        extra_json_schema={
            "minLength": 1,
            "format": "picture",
            "contentEncoding": "base64",
            "contentMediaType": "image/*",
        }
    ),
]

EXAMPLE_IMAGE = (  # a red circle
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgAQMAAABJtOi3AAAABlBMVEX////cFBTlJRwCAAAARElEQVR42n3M"
    "sQ2AMADEwOOFxBgwCpvBaBklY1CghCKiQ7hw4cL8s1Ssl9hmsQe9y8QZSIzqU42SseodRxOliXq/+z8eGIwO"
    "/AhZZ7UAAAAASUVORK5CYII="
)

_DATA_URL = re.compile(r"\s*data:(?:image/|[^,\s]*;base64,)", re.IGNORECASE)

# No text has this many such characters without a space, but the base64 of a file has.
_FILE_CHARS = 256
_FILE = rf"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9])[A-Za-z0-9+/_-]{{{_FILE_CHARS}}}"
# Markup that users leave around an image: Markdown, HTML, CSS; then quotes, or Python's b'...'.
_MARKUP = r"\[?!?\[[^\[\]]{0,1000}+\][(:]\s*+<?|<img\b[^>]{0,1000}?\bsrc\s*+=|url\("
_AROUND = rf"(?:{_MARKUP})?\s*+(?:b?[\"'`]{{1,3}}+)?\s*+"
# The beginning of a data URL, also with spaces, or the end of that beginning.
_TYPE = r"[\w.+-]{1,100}+/[\w.+-]{1,100}+"
_HEAD = rf"data:(?:image/|[^,\s]*;base64,|\s*+{_TYPE}[^,]{{0,200}};\s*+base64\s*+,)|{_TYPE};base64,"
_HIDDEN_URL = re.compile(rf"{_AROUND}(?:{_HEAD})", re.IGNORECASE)
_HIDDEN_FILE = re.compile(rf"{_AROUND}(?:base64,)?{_FILE}")
_HEAD_CHARS = 2_000


def is_data_url(content: str) -> bool:
    """Return whether a string is the data URL of an image, or of any file in base64."""
    return bool(_DATA_URL.match(content))


def is_hidden_image(text: str) -> bool:
    """Return whether a text is a file's base64 or data URL, even in quotes or markup."""
    head = text.lstrip().removeprefix("\ufeff").lstrip()[:_HEAD_CHARS]
    in_a_line = head.replace("\r", "").replace("\n", "")
    return bool(_HIDDEN_URL.match(head) or _HIDDEN_FILE.match(in_a_line))

"""Token ids in place of texts, which OpenAI's API takes: refused, or read as the model's own.

Clients make them by a vocabulary of OpenAI's. Read by another one they are another text, whose
vector is wrong without a word; so they are read only where the operator says whose they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import msgspec

from errors import InvalidInputError, RequestTooLargeError

# Found where texts were expected, so that no list of a million numbers is built to be refused.
_START = re.compile(rb'"input"\s*:\s*\[[\s\[]*-?\d')
_MAX_IDS = 300_000  # of a request, by OpenAI's API; each takes 40 bytes once it is read

TokenIds = Annotated[
    list[int | list[int]], msgspec.Meta(description="ids of one text, or a list of them for each")
]


def are_sent(body: bytes | bytearray) -> bool:
    """Tell whether a body holds token ids where it could hold texts."""
    return bool(_START.search(body))


def check_commas(body: bytes | bytearray) -> None:
    """Check that a body cannot hold too many token ids, before they are read.

    Raises:
        RequestTooLargeError: it has more commas than ids are allowed, whatever they stand between.
    """
    if body.count(b",") > _MAX_IDS:
        raise RequestTooLargeError(
            f"the request body: over {_MAX_IDS} commas, and so many token ids are allowed in one "
            "request",
            "body",
        )


def refused() -> InvalidInputError:
    """Say why they are not read."""
    return InvalidInputError(
        "token ids, not texts: ids of another vocabulary would give wrong vectors. Send texts; "
        "with langchain-openai by OpenAIEmbeddings(check_embedding_ctx_length=False). Where they "
        "are ids of this model's own vocabulary, let the service run with EMBEDDINGS_TOKEN_IDS=own",
        "body",
    )


def texts_of(ids: TokenIds) -> list[Sequence[int]]:
    """Return the ids of each text.

    Raises:
        InvalidInputError: one has none, or lists and numbers are mixed.
    """
    texts = [one for one in ids if isinstance(one, list)]
    if not texts:
        return [[one for one in ids if isinstance(one, int)]]
    if len(texts) < len(ids):
        raise InvalidInputError("numbers and lists of numbers, mixed", "body").at("input")
    for i, one in enumerate(texts):
        if not one:
            raise InvalidInputError("an empty list: there are no token ids in it", "body").at(
                f"input[{i}]"
            )
    return list(texts)

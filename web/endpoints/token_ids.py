"""Token ids in place of texts, which some APIs take: refused, or read as the model's own.

Clients make them by a vocabulary of OpenAI's. Read by another one they are another text, whose
vector is wrong without a word; so they are read only where the operator says whose they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

import msgspec

from errors import InvalidInputError, RequestTooLargeError
from web.endpoints.json_body import decode

T = TypeVar("T")
U = TypeVar("U")

# Found where texts were expected, so that no list of a million numbers is built to be refused.
_START = re.compile(rb'"inputs?"\s*:\s*\[[\s\[]*-?\d')
_MAX_IDS = 300_000  # of a request, by OpenAI's API; each takes 40 bytes once it is read

TokenIds = Annotated[
    list[int | list[int]], msgspec.Meta(description="ids of one text, or a list of them for each")
]


def decode_either(
    texts: msgspec.json.Decoder[T],
    ids: msgspec.json.Decoder[U],
    body: bytes | bytearray,
    field: str,
    mode: Literal["reject", "accept"],
) -> T | U:
    """Read a body whose texts may be sent as token ids.

    Args:
        texts: decodes one with texts.
        ids: decodes one with token ids.
        body: what was sent.
        field: holds either.
        mode: `EMBEDDINGS_TOKEN_IDS`.

    Raises:
        InvalidInputError: the body is not what it should be, or it holds ids and must not.
        RequestTooLargeError: it holds too much.
    """
    try:
        return decode(texts, body)
    except InvalidInputError as error:
        if not (error.where.startswith(field) and _START.search(body)):
            raise
        if mode == "reject":
            raise _refused().at(field) from error
    if body.count(b",") > _MAX_IDS:  # before they are read, whatever they stand between
        raise RequestTooLargeError(
            f"the request body: over {_MAX_IDS} commas, and so many token ids are allowed in one "
            "request",
            "body",
        )
    return decode(ids, body)


def _refused() -> InvalidInputError:
    return InvalidInputError(
        "token ids, not texts: ids of another vocabulary would give wrong vectors. Send texts; "
        "with langchain-openai by OpenAIEmbeddings(check_embedding_ctx_length=False). Where they "
        "are ids of this model's own vocabulary, let the service run with "
        "EMBEDDINGS_TOKEN_IDS=accept",
        "body",
    )


def texts_of(ids: TokenIds, field: str) -> list[Sequence[int]]:
    """Return the ids of each text; `field` is where they were sent.

    Raises:
        InvalidInputError: one has none, or lists and numbers are mixed.
    """
    texts = [one for one in ids if isinstance(one, list)]
    if not texts:
        return [[one for one in ids if isinstance(one, int)]]
    if len(texts) < len(ids):
        raise InvalidInputError("numbers and lists of numbers, mixed", "body").at(field)
    for i, one in enumerate(texts):
        if not one:
            raise InvalidInputError("an empty list: there are no token ids in it", "body").at(
                f"{field}[{i}]"
            )
    return list(texts)

"""Token ids in place of texts, which some APIs allow: rejected, or read as the model's own ids.

Clients use OpenAI's vocabularies. In another vocabulary the ids mean another text, which would get
a wrong vector without an error. So ids are accepted only if the operator sets EMBEDDINGS_TOKEN_IDS.
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

# The start of token ids in a body. They are found without decoding, so that no list of a million
# numbers is built only to be rejected.
_START = re.compile(rb'"inputs?"\s*:\s*\[[\s\[]*-?\d')
_MAX_IDS = 300_000  # in a request, as in OpenAI's API; each takes 40 bytes in memory

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
    """Decode a body with texts, or with token ids in place of texts.

    Args:
        texts: the decoder of bodies with texts.
        ids: the decoder of bodies with token ids.
        body: the body.
        field: the name of the field with texts or ids.
        mode: `EMBEDDINGS_TOKEN_IDS`.

    Raises:
        InvalidInputError: the body is invalid, or holds token ids and `mode` rejects them.
        RequestTooLargeError: the body holds too much.
    """
    try:
        return decode(texts, body)
    except InvalidInputError as error:
        if not (error.where.startswith(field) and _START.search(body)):
            raise
        if mode == "reject":
            raise _refused().at(field) from error
    if body.count(b",") > _MAX_IDS:  # a bound on ids before they are decoded
        raise RequestTooLargeError(
            f"the request body: over {_MAX_IDS} commas; at most so many token ids are allowed in a "
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


def split_texts(ids: TokenIds, field: str) -> list[Sequence[int]]:
    """Return the ids of each text; `field` is the field's name in errors.

    Raises:
        InvalidInputError: a list is empty, or lists and numbers are mixed.
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

"""Reads a JSON body into the fields of an interface, within bounds of memory."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

from errors import InvalidInputError, RequestTooLargeError

T = TypeVar("T")

# How an input shall be read. It may be written in front of a text, and errors repeat it: a long one
# would be another way to send a long text, past all bounds of texts.
Word = Annotated[str, msgspec.Meta(max_length=64)]

# A string takes 50 bytes and more, however short it is: 100 MB of them would grow to 2 GB.
_MAX_QUOTES = 2_000_000


def decode(decoder: msgspec.json.Decoder[T], body: bytes | bytearray) -> T:
    """Read a body, whatever its content type says.

    What a decoder does not know is skipped without being built: otherwise 15 MB of `[],[],...`
    under a name of no meaning would grow to 160 MB.

    Raises:
        InvalidInputError: the body is not what it should be; the message says where.
        RequestTooLargeError: it holds too many strings.
    """
    if body.count(b'"') > _MAX_QUOTES:
        raise RequestTooLargeError("the request body: it holds over a million strings", "body")
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        fault, _, path = str(error).partition(" - at `$.")
        where = path.rstrip("`")
        if where:
            raise InvalidInputError(fault, "body").at(where) from error
        raise InvalidInputError(f"the request body: {fault}", "body") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"the request body: invalid JSON: {error}", "body") from error

"""The wire format of `POST /vectorize`: what it takes, and what it answers."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
import orjson
from pydantic import BaseModel

from errors import InvalidInputError, RequestTooLargeError

EXAMPLE_IMAGE = (  # a red circle
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgAQMAAABJtOi3AAAABlBMVEX////cFBTlJRwCAAAARElEQVR42n3M"
    "sQ2AMADEwOOFxBgwCpvBaBklY1CghCKiQ7hw4cL8s1Ssl9hmsQe9y8QZSIzqU42SseodRxOliXq/+z8eGIwO"
    "/AhZZ7UAAAAASUVORK5CYII="
)


class VectorizeRequest(msgspec.Struct):
    """What `POST /vectorize` takes; Weaviate leaves an empty list out altogether.

    What it does not know is skipped without being built: otherwise 15 MB of `[],[],...` under a
    name of no meaning would grow to 160 MB.
    """

    texts: Annotated[list[str] | None, msgspec.Meta(description="texts to embed")] = None
    images: Annotated[
        list[str] | None,
        msgspec.Meta(
            description="images to embed: the base64 of each file, with or without a "
            "`data:image/...;base64,` prefix"
        ),
    ] = None


# A string takes 50 bytes and more, however short it is: 100 MB of them would grow to 2 GB.
_MAX_QUOTES = 2_000_000
_DECODER = msgspec.json.Decoder(VectorizeRequest)
_EXAMPLE = {"texts": ["a red circle", "a big blue square"], "images": [EXAMPLE_IMAGE]}


class VectorizeResponse(BaseModel):
    """What `POST /vectorize` answers: both lists, in the order of the request."""

    textVectors: list[list[float]]  # noqa: N815 - the wire format of Weaviate
    imageVectors: list[list[float]]  # noqa: N815


def request_body() -> dict[str, Any]:
    """Describe the body for OpenAPI."""
    _, components = msgspec.json.schema_components([VectorizeRequest])
    schema = {**components["VectorizeRequest"], "examples": [_EXAMPLE]}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def parse(body: bytes | bytearray) -> tuple[list[str], list[str]]:
    """Return the texts and the images of a request.

    Raises:
        InvalidInputError: the body is not what it should be; the message says where.
        RequestTooLargeError: it holds too many strings.
    """
    if body.count(b'"') > _MAX_QUOTES:
        raise RequestTooLargeError("the request body: it holds over a million strings", "body")
    try:
        wanted = _DECODER.decode(body)
    except msgspec.ValidationError as error:
        fault, _, path = str(error).partition(" - at `$.")
        where = path.rstrip("`") or "the request body"
        raise InvalidInputError(f"{where}: {fault}", "body") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"the request body: invalid JSON: {error}", "body") from error
    return wanted.texts or [], wanted.images or []


def serialise(texts: npt.NDArray[np.float32], images: npt.NDArray[np.float32]) -> bytes:
    """Write vectors, each [n, dimensions], as the answer's body."""
    # Each number as the shortest decimal that parses back to the same float32.
    return orjson.dumps(
        {"textVectors": texts, "imageVectors": images}, option=orjson.OPT_SERIALIZE_NUMPY
    )

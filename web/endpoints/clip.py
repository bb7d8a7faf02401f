"""`POST /vectorize`, as Weaviate's `multi2vec-clip` module asks it: texts and images together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import orjson
from typing_extensions import override

from backends.model import EmbeddingResult
from inference.request import EmbedInput
from web.endpoints.base import Description, Endpoint, ParsedRequest
from web.endpoints.images import EXAMPLE_IMAGE, Base64Image
from web.endpoints.json_body import decode


class VectorizeRequest(msgspec.Struct):
    """What `POST /vectorize` takes; Weaviate leaves an empty list out altogether."""

    texts: Annotated[list[str] | None, msgspec.Meta(description="texts to embed")] = None
    images: Annotated[
        list[Base64Image] | None,
        msgspec.Meta(
            description="images to embed: the base64 of each file, with or without a "
            "`data:image/...;base64,` prefix"
        ),
    ] = None


class VectorizeResponse(msgspec.Struct):
    """What `POST /vectorize` answers: both lists, in the order of the request."""

    textVectors: list[list[float]]  # noqa: N815 - the wire format of Weaviate
    imageVectors: list[list[float]]  # noqa: N815


@dataclass(frozen=True, slots=True)
class ParsedVectorize(ParsedRequest):
    """Texts, then images.

    Attributes:
        texts: how many of the inputs are texts.
    """

    texts: int


_DECODER = msgspec.json.Decoder(VectorizeRequest)


class Vectorize(Endpoint[ParsedVectorize]):
    """The interface of Weaviate's `multi2vec-clip` module."""

    paths = ("/vectorize",)
    description = Description(
        summary="Embed texts and images",
        request=VectorizeRequest,
        response=VectorizeResponse,
        examples=[{"texts": ["a red circle", "a big blue square"], "images": [EXAMPLE_IMAGE]}],
    )

    @override
    def parse(self, body: bytes | bytearray) -> ParsedVectorize:
        wanted = decode(_DECODER, body)
        # Each may be missing, null or empty.
        texts, images = wanted.texts or [], wanted.images or []
        inputs = [EmbedInput(f"texts[{i}]", "text", text) for i, text in enumerate(texts)]
        inputs += [EmbedInput(f"images[{i}]", "image", image) for i, image in enumerate(images)]
        return ParsedVectorize(inputs, len(texts))

    @override
    def serialize(self, ask: ParsedVectorize, answers: Sequence[EmbeddingResult]) -> bytes:
        vectors = [answer.vector for answer in answers]
        content = {"textVectors": vectors[: ask.texts], "imageVectors": vectors[ask.texts :]}
        # Each number as the shortest decimal that parses back to the same float32.
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)

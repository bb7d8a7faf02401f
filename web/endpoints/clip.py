"""`POST /vectorize`, for Weaviate's `multi2vec-clip` module: texts and images together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import orjson
from typing_extensions import override

from backends.model import EmbeddingResult
from inference.request import EmbedInput
from web.endpoints.base import IMAGES_FIRST, Description, Endpoint, ParsedRequest
from web.endpoints.images import EXAMPLE_IMAGE, Base64Image
from web.endpoints.json_body import decode


class VectorizeRequest(msgspec.Struct):
    """The body of `POST /vectorize`; Weaviate omits empty lists."""

    texts: Annotated[list[str] | None, msgspec.Meta(description="texts to embed")] = None
    images: Annotated[
        list[Base64Image] | None,
        msgspec.Meta(
            description="images to embed: the base64 of each file, with or without a "
            "`data:image/...;base64,` prefix"
        ),
    ] = None


class VectorizeResponse(msgspec.Struct):
    """The answer of `POST /vectorize`: both lists, in the order of the request."""

    textVectors: list[list[float]]  # noqa: N815 - the wire format of Weaviate
    imageVectors: list[list[float]]  # noqa: N815


@dataclass(frozen=True, slots=True)
class ParsedVectorize(ParsedRequest):
    """A parsed request: texts, then images.

    Attributes:
        texts: number of texts among the inputs.
    """

    texts: int


_DECODER = msgspec.json.Decoder(VectorizeRequest)


class Vectorize(Endpoint[ParsedVectorize]):
    """The endpoint of Weaviate's `multi2vec-clip` module."""

    paths = ("/vectorize",)
    kinds = IMAGES_FIRST
    description = Description(
        summary="Embed texts and images",
        request=VectorizeRequest,
        response=VectorizeResponse,
        examples=[{"texts": ["a red circle", "a big blue square"], "images": [EXAMPLE_IMAGE]}],
    )

    @override
    def parse(self, body: bytes | bytearray) -> ParsedVectorize:
        request = decode(_DECODER, body)
        # Both lists may be missing, null or empty.
        texts, images = request.texts or [], request.images or []
        inputs = [EmbedInput(f"texts[{i}]", "text", text) for i, text in enumerate(texts)]
        inputs += [EmbedInput(f"images[{i}]", "image", image) for i, image in enumerate(images)]
        return ParsedVectorize(inputs, len(texts))

    @override
    def serialize(self, parsed: ParsedVectorize, answers: Sequence[EmbeddingResult]) -> bytes:
        vectors = [answer.vector for answer in answers]
        content = {"textVectors": vectors[: parsed.texts], "imageVectors": vectors[parsed.texts :]}
        # Each number as the shortest decimal that parses back to the same float32.
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)

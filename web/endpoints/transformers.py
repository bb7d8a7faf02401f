"""`POST /vectors`, for Weaviate's modules that send one text or one image in a request.

Source: Weaviate's modules `text2vec-transformers` and `text2vec-model2vec`, which send a text and
its config, and `img2vec-neural`, which sends an id and an image; and the modules' containers. The
list of texts is an open pull request of Weaviate, https://github.com/weaviate/weaviate/pull/9982.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import orjson
from typing_extensions import override

from backends.model import EmbeddingResult, EncodeParams
from errors import InvalidInputError
from inference.request import EmbedInput, Postprocess
from web.endpoints.base import TEXTS_FIRST, Description, Endpoint, ParsedRequest
from web.endpoints.images import EXAMPLE_IMAGE, Base64Image
from web.endpoints.json_body import Word, decode


class VectorConfig(msgspec.Struct):
    """Parameters of a text; a model ignores parameters that it does not know."""

    pooling_strategy: Annotated[
        Word | None,
        msgspec.Meta(description="`masked_mean` or `cls`, of models that are not pooled already"),
    ] = None
    task_type: Annotated[
        Word | None,
        msgspec.Meta(description="`query` (goes before all that is none) or `passage`"),
    ] = None
    dimensions: Annotated[
        int | bool | None,
        msgspec.Meta(description="keep so many numbers, where the model allows it; 0 keeps all"),
    ] = None


class VectorsRequest(msgspec.Struct):
    """The body of `POST /vectors`: a text, a list of texts, or an image and its id."""

    text: Annotated[str | None, msgspec.Meta(description="text to embed")] = None
    texts: Annotated[list[str] | None, msgspec.Meta(description="in place of a text: several")] = (
        None
    )
    config: VectorConfig | None = None
    id: Annotated[str | None, msgspec.Meta(description="comes back with the image's vector")] = None
    image: Annotated[
        Base64Image | None,
        msgspec.Meta(description="in place of a text: the base64 of an image's file"),
    ] = None


class VectorsResponse(msgspec.Struct, omit_defaults=True):
    """The answer of `POST /vectors`: the text or the id of the request, and the vector."""

    vector: list[float]
    dim: int
    text: str | None = None
    id: str | None = None


class VectorsOfTextsResponse(msgspec.Struct):
    """The answer to a list of texts, in the order of the request."""

    vectors: list[list[float]]
    dims: int


@dataclass(frozen=True, slots=True)
class ParsedVectors(ParsedRequest):
    """A parsed request: one input, or a list of texts.

    Attributes:
        given: the text or the id to return with the vector; None for a list of texts.
    """

    given: dict[str, str | None] | None


# Not strict, as the text container accepts numbers in quotes.
_DECODER = msgspec.json.Decoder(VectorsRequest, strict=False)
_NO_CONFIG = VectorConfig()


class Vectors(Endpoint[ParsedVectors]):
    """The endpoint of Weaviate's modules for one text, one image or several texts a request."""

    paths = ("/vectors",)
    kinds = TEXTS_FIRST
    description = Description(
        summary="Embed a text, several texts, or an image",
        request=VectorsRequest,
        response=VectorsResponse | VectorsOfTextsResponse,
        examples=[
            {"text": "a red circle", "config": {"task_type": "query"}},
            {"texts": ["a red circle", "a big blue square"]},
            {"id": "7", "image": EXAMPLE_IMAGE},
        ],
    )

    @override
    def parse(self, body: bytes | bytearray) -> ParsedVectors:
        request = decode(_DECODER, body)
        if request.texts is not None:
            if request.text is not None or request.image is not None:
                raise InvalidInputError(
                    'the request body: "texts" beside a "text" or an "image"; send one of them',
                    "body",
                )
            texts = enumerate(request.texts)
            return ParsedVectors(
                [self._text(f"texts[{i}]", t, request.config) for i, t in texts], None
            )
        if request.text is not None:
            text = self._text("text", request.text, request.config)
            return ParsedVectors([text], {"text": request.text})
        if request.image is not None:
            return ParsedVectors([EmbedInput("image", "image", request.image)], {"id": request.id})
        raise InvalidInputError(
            'the request body: expected a "text", "texts", or an "id" and an "image"', "body"
        )

    def _text(self, name: str, text: str, config: VectorConfig | None) -> EmbedInput:
        config = config or _NO_CONFIG
        task = config.task_type or ""
        return EmbedInput(
            name,
            "text",
            text,
            EncodeParams(pooling=config.pooling_strategy or "", task=task),
            self._postprocess(int(config.dimensions or 0)),
            is_query=task == "query",
        )

    def _postprocess(self, dimensions: int) -> Postprocess:
        if dimensions < 0:
            raise InvalidInputError(
                f"config.dimensions: {dimensions}; expected how many to keep, or 0 for all",
                "config",
            )
        cuts = self.info.cuts and 0 < dimensions < self.info.dimensions
        return Postprocess(dimensions=dimensions if cuts else None)

    @override
    def serialize(self, parsed: ParsedVectors, answers: Sequence[EmbeddingResult]) -> bytes:
        vectors = [answer.vector for answer in answers]
        dimensions = len(vectors[0]) if vectors else 0
        content: dict[str, object] = {"vectors": vectors, "dims": dimensions}
        if parsed.given is not None:
            content = {**parsed.given, "vector": vectors[0], "dim": dimensions}
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)

"""`POST /v1/embeddings`, OpenAI's API.

It also accepts images, in the forms of Jina and Voyage (`{"image": ...}`) and of infinity
(`"modality": "image"`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import orjson
import pybase64
from typing_extensions import override

from backends.model import EmbeddingResult, EncodeParams, Modality, ModelInfo, Vector
from config import Settings
from errors import ConfigurationError, InvalidInputError
from inference.request import Content, EmbedInput, Postprocess
from web.endpoints import token_ids
from web.endpoints.base import Description, Endpoint, ParsedRequest
from web.endpoints.dimensions import kept
from web.endpoints.images import EXAMPLE_IMAGE, Base64Image, is_data_url, is_hidden_image
from web.endpoints.json_body import Word
from web.endpoints.openai_api import OpenAIErrors
from web.endpoints.tasks import TASKS
from web.endpoints.token_ids import TokenIds

_MAX_INPUTS = 2048  # in a request, as in OpenAI's API

_OTHER_URL = re.compile(r"\s*(?!data:)[a-z][a-z0-9+.-]*:", re.IGNORECASE)


class EmbeddingInput(msgspec.Struct):
    """One text, or one image."""

    text: Annotated[str | None, msgspec.Meta(description="a text")] = None
    image: Annotated[
        Base64Image | None,
        msgspec.Meta(description="an image: the base64 of its file, or a data URL of it"),
    ] = None

    def __post_init__(self) -> None:
        if (self.text is None) == (self.image is None):
            raise ValueError("neither `text` nor `image`, or both: one of them is needed")


class EmbeddingsOptions(msgspec.Struct, kw_only=True):
    """Options of a request; other fields are ignored."""

    model: Annotated[
        str | None,
        msgspec.Meta(description="any name: it is sent back, and chooses among several models"),
    ] = None
    encoding_format: Annotated[
        Literal["float", "base64"] | None,
        msgspec.Meta(description="numbers, or the base64 of float32 in little-endian order"),
    ] = None
    dimensions: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        msgspec.Meta(description="keep so many of a vector's first numbers; of a model that cuts"),
    ] = None
    modality: Annotated[
        Literal["text", "image"] | None,
        msgspec.Meta(description="`image`: the strings in `input` are images"),
    ] = None
    input_type: Annotated[
        Word | None,
        msgspec.Meta(description="`query` or `document`: chooses the model's own prompt"),
    ] = None
    task: Annotated[Word | None, msgspec.Meta(description="means `input_type`")] = None
    normalized: Annotated[
        bool | None, msgspec.Meta(description="`false`: vectors as the model gives them")
    ] = None


class EmbeddingsRequest(EmbeddingsOptions):
    """The body of `POST /v1/embeddings`."""

    input: Annotated[
        str | EmbeddingInput | list[str | EmbeddingInput],
        msgspec.Meta(
            description="what to embed: one or up to 2,048; a string is a text, or an image where "
            "it is a data URL in base64"
        ),
    ]


class TokenIdsRequest(EmbeddingsOptions):
    """The body with token ids, if EMBEDDINGS_TOKEN_IDS accepts them."""

    input: TokenIds


class Embedding(msgspec.Struct):
    """A vector with its index in the request."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(msgspec.Struct):
    """The number of tokens that the model read, special tokens too; images count as 0."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(msgspec.Struct):
    """The answer of `POST /v1/embeddings`, in the order of the request."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class ParsedEmbeddings(ParsedRequest):
    """A parsed request, with the form of its answer.

    Attributes:
        model: the model's name in the request.
        is_base64: whether vectors are encoded as base64.
    """

    model: str
    is_base64: bool


_DECODER = msgspec.json.Decoder(EmbeddingsRequest)
_IDS_DECODER = msgspec.json.Decoder(TokenIdsRequest)


class Embeddings(Endpoint[ParsedEmbeddings]):
    """`POST /v1/embeddings`: embeds texts, token ids and images, as OpenAI's API does.

    Raises:
        ConfigurationError: EMBEDDINGS_DIMENSIONS is set, and the model's vectors cannot be
            truncated.
    """

    paths = ("/v1/embeddings",)
    description = Description(
        summary="Embed texts and images, as OpenAI's API does",
        request=EmbeddingsRequest,
        response=EmbeddingsResponse,
        examples=[
            {"input": ["a red circle", "a big blue square"], "model": "any"},
            {"input": [{"text": "a red circle"}, {"image": EXAMPLE_IMAGE}], "model": "any"},
        ],
    )
    errors = OpenAIErrors()
    max_items = _MAX_INPUTS

    def __init__(self, settings: Settings, info: ModelInfo) -> None:
        super().__init__(settings, info)
        self._dimensions = settings.embeddings_dimensions
        try:
            kept(self._dimensions, info, f"EMBEDDINGS_DIMENSIONS={self._dimensions}")
        except InvalidInputError as error:
            raise ConfigurationError(str(error)) from error

    @override
    def parse(self, body: bytes | bytearray) -> ParsedEmbeddings:
        ids_mode = self.settings.embeddings_token_ids
        request = token_ids.decode_either(_DECODER, _IDS_DECODER, body, "input", ids_mode)
        task = request.input_type or request.task or ""
        params = EncodeParams(task=TASKS.get(task, task))
        dimensions = kept(request.dimensions or self._dimensions, self.info)
        postprocess = Postprocess(dimensions, normalize=request.normalized is not False)
        is_query = params.task == "query"
        inputs = [
            EmbedInput(f"input[{i}]", modality, content, params, postprocess, is_query)
            for i, (modality, content) in enumerate(_read_inputs(request))
        ]
        return ParsedEmbeddings(
            inputs, self.model_name(request.model), request.encoding_format == "base64"
        )

    @override
    def serialize(self, parsed: ParsedEmbeddings, answers: Sequence[EmbeddingResult]) -> bytes:
        vectors: list[Vector | str] = [answer.vector for answer in answers]
        if parsed.is_base64:
            numbers = [answer.vector.astype("<f4", copy=False) for answer in answers]
            vectors = [pybase64.b64encode(one.tobytes()).decode() for one in numbers]
        tokens = sum(answer.tokens for answer in answers)
        content = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": i, "embedding": vector}
                for i, vector in enumerate(vectors)
            ],
            "model": parsed.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def _read_inputs(
    request: EmbeddingsRequest | TokenIdsRequest,
) -> Iterator[tuple[Modality, Content]]:
    """Yield the modality and the content of each item.

    Raises:
        InvalidInputError: there are no items; or an item is a URL, or a text that holds a file as
            base64.
    """
    if isinstance(request, TokenIdsRequest):
        yield from (("text", ids) for ids in token_ids.split_texts(request.input, "input"))
        return
    inputs = request.input if isinstance(request.input, list) else [request.input]
    if not inputs:
        raise InvalidInputError("an empty list: there is nothing to embed", "body").at("input")
    for i, item in enumerate(inputs):
        try:
            yield _read_input(item, request.modality)
        except InvalidInputError as error:
            raise error.at(f"input[{i}]") from error


def _read_input(item: str | EmbeddingInput, modality: Modality | None) -> tuple[Modality, str]:
    if isinstance(item, EmbeddingInput):
        if item.image is not None:
            return "image", _image(item.image)
        return "text", _text(item.text or "")
    if modality == "image" or is_data_url(item):
        return "image", _image(item)
    return "text", _text(item)


def _image(content: str) -> str:
    if _OTHER_URL.match(content):
        raise InvalidInputError(
            "a URL, and none is ever fetched here: send the content of the image, as base64 or a "
            "data URL",
            "base64",
        )
    return content


def _text(content: str) -> str:
    if is_hidden_image(content):
        raise InvalidInputError(
            'base64 that was sent as a text: send a picture as {"image": "..."}, as a data URL '
            'with nothing around it, or with "modality": "image"',
            "base64",
        )
    return content

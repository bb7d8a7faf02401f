"""An endpoint that is as different from `/vectorize` as possible, to test the code of `web/`.

Its vectors are cut, scaled and written in base64, its answers count tokens and echo a field of the
request, it takes more items, and its errors have another shape and another status.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import orjson
from typing_extensions import override

from backends.model import EmbeddingResult
from errors import InvalidInputError
from inference.request import EmbedInput, Postprocess
from web.endpoints.base import Description, Endpoint, ParsedRequest
from web.endpoints.error_format import ErrorFormat, ErrorInfo
from web.endpoints.json_body import decode


class OtherDetail(msgspec.Struct):
    message: str
    type: str
    code: str


class NestedErrorResponse(msgspec.Struct):
    error: OtherDetail


class NestedErrors(ErrorFormat):
    prefix = "/other/"
    schema = NestedErrorResponse

    @override
    def status(self, status: int) -> int:
        return 400 if status == 422 else status

    @override
    def body(self, error_info: ErrorInfo) -> bytes:
        kind = "server_error" if error_info.status >= 500 else "invalid_request_error"
        error = {"message": error_info.message, "type": kind, "code": error_info.reason}
        return orjson.dumps({"error": error})


class OtherRequest(msgspec.Struct):
    input: str | list[str]
    model: str = ""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None


class OtherItem(msgspec.Struct):
    index: int
    embedding: list[float] | str


class OtherUsage(msgspec.Struct):
    total_tokens: int


class OtherResponse(msgspec.Struct):
    data: list[OtherItem]
    model: str
    usage: OtherUsage


@dataclass(frozen=True, slots=True)
class ParsedEmbeddings(ParsedRequest):
    model: str
    is_base64: bool


_DECODER = msgspec.json.Decoder(OtherRequest)


class Embeddings(Endpoint[ParsedEmbeddings]):
    paths = ("/other/embeddings", "/other/embeddings/")
    description = Description(
        summary="Embed texts",
        request=OtherRequest,
        response=OtherResponse,
        examples=[{"input": ["a red circle"], "model": "any"}],
    )
    errors = NestedErrors()
    max_items = 100

    @override
    def parse(self, body: bytes | bytearray) -> ParsedEmbeddings:
        request = decode(_DECODER, body)
        if request.dimensions and not self.info.cuts:
            raise InvalidInputError("dimensions: this model's vectors cannot be cut", "body")
        texts = [request.input] if isinstance(request.input, str) else request.input
        postprocess = Postprocess(request.dimensions, normalize=True)
        inputs = [
            EmbedInput(f"input[{i}]", "text", text, postprocess=postprocess)
            for i, text in enumerate(texts)
        ]
        return ParsedEmbeddings(inputs, request.model, request.encoding_format == "base64")

    @override
    def serialize(self, parsed: ParsedEmbeddings, answers: Sequence[EmbeddingResult]) -> bytes:
        write: Any = _base64_of if parsed.is_base64 else _same
        content = {
            "data": [
                {"index": i, "embedding": write(answer.vector)} for i, answer in enumerate(answers)
            ],
            "model": parsed.model,
            "usage": {"total_tokens": sum(answer.tokens for answer in answers)},
        }
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def _same(vector: np.ndarray) -> np.ndarray:
    return vector


def _base64_of(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()

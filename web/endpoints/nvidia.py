"""`POST /v1/ranking` and `/v1/retrieval/nvidia/reranking`, NVIDIA's rerank API.

Source: the reference of NVIDIA's NIM for rerankers, and the package
`llama-index-postprocessor-nvidia-rerank`. Weaviate's `reranker-nvidia` uses the longer path, and
reads the `msg` of a 422, but no other error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import orjson
from typing_extensions import override

from backends.model import EmbeddingResult
from web.endpoints.base import PAIRS, Description, Endpoint, ParsedRequest
from web.endpoints.error_format import ErrorFormat, ErrorInfo
from web.endpoints.json_body import decode
from web.endpoints.ranking import join_logits, make_pairs, rank
from web.endpoints.truncation import refuse_cut


class NvidiaFault(msgspec.Struct):
    """A fault of a request: location, message and type."""

    loc: list[str | int]
    msg: str
    type: str


class NvidiaErrorResponse(msgspec.Struct):
    """The body of an error: the faults of a request (422), or a sentence."""

    detail: str | list[NvidiaFault]


class NvidiaErrors(ErrorFormat):
    """The error format of NVIDIA's API."""

    prefix = "/v1/ranking"
    schema = NvidiaErrorResponse

    @override
    def body(self, error_info: ErrorInfo) -> bytes:
        detail: object = error_info.message
        if error_info.status == 422:
            place = [
                int(one) if one.isdecimal() else one for one in _STEP.findall(error_info.where)
            ]
            fault = {"loc": ["body", *place], "msg": error_info.message, "type": error_info.reason}
            detail = [fault]
        return orjson.dumps({"detail": detail})


_STEP = re.compile(r"\w+")  # a part of a place, such as of `passages[1].text`


class NvidiaText(msgspec.Struct):
    """An object with a text: the query, or a passage."""

    text: str


class NvidiaRequest(msgspec.Struct):
    """The body of `POST /v1/ranking`; other fields are ignored."""

    query: Annotated[NvidiaText, msgspec.Meta(description="what the passages shall answer")]
    passages: Annotated[list[NvidiaText], msgspec.Meta(description="texts to rank")]
    model: Annotated[
        str | None, msgspec.Meta(description="any name; it chooses among several models")
    ] = None
    truncate: Annotated[
        Literal["NONE", "END"] | None,
        msgspec.Meta(description="`NONE`: refuse a pair that is too long, uncut"),
    ] = None


class NvidiaRanking(msgspec.Struct):
    """An entry of the answer: the index of a passage, and its logit; a higher logit is better."""

    index: int
    logit: float


class NvidiaResponse(msgspec.Struct):
    """The answer of `POST /v1/ranking`: all passages, the best first."""

    rankings: list[NvidiaRanking]


@dataclass(frozen=True, slots=True)
class ParsedNvidia(ParsedRequest):
    """A parsed request of pairs.

    Attributes:
        uncut: the option that forbids truncation; empty if it is allowed.
    """

    uncut: str


_DECODER = msgspec.json.Decoder(NvidiaRequest)


class NvidiaRerank(Endpoint[ParsedNvidia]):
    """The endpoint of NVIDIA's rerankers."""

    paths = ("/v1/ranking", "/v1/retrieval/nvidia/reranking")
    scores = True
    kinds = PAIRS
    description = Description(
        summary="Rank passages, as NVIDIA's API does",
        request=NvidiaRequest,
        response=NvidiaResponse,
        examples=[
            {
                "model": "any",
                "query": {"text": "a grey bird"},
                "passages": [{"text": "A heron."}, {"text": "A boat."}],
            }
        ],
    )
    errors = NvidiaErrors()

    @override
    def parse(self, body: bytes | bytearray) -> ParsedNvidia:
        request = decode(_DECODER, body)
        texts = [one.text for one in request.passages]
        uncut = '`"truncate": "NONE"`' if request.truncate == "NONE" else ""
        return ParsedNvidia(make_pairs(request.query.text, texts, "passages"), uncut)

    @override
    def serialize(self, parsed: ParsedNvidia, answers: Sequence[EmbeddingResult]) -> bytes:
        refuse_cut(parsed, answers, parsed.uncut)
        logits = join_logits(answers)
        rankings = [{"index": place, "logit": logits[place]} for place in rank(logits)]
        return orjson.dumps({"rankings": rankings}, option=orjson.OPT_SERIALIZE_NUMPY)

"""`POST /v1/ranking` and `/v1/retrieval/nvidia/reranking`, as clients of NVIDIA's API ask them.

Source: the reference of NVIDIA's NIM for rerankers, and the package
`llama-index-postprocessor-nvidia-rerank`. Weaviate's `reranker-nvidia` asks the longer path, and
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
from web.endpoints.base import Description, Endpoint, ParsedRequest
from web.endpoints.error_format import ErrorFormat, Refusal
from web.endpoints.json_body import decode
from web.endpoints.ranking import logits_of, pairs_of, ranking_of
from web.endpoints.truncation import refuse_cut


class NvidiaFault(msgspec.Struct):
    """What is wrong with a request: where, in a sentence, and in a word."""

    loc: list[str | int]
    msg: str
    type: str


class NvidiaErrorResponse(msgspec.Struct):
    """What an answer above 399 holds: the faults of a request (422), or a sentence."""

    detail: str | list[NvidiaFault]


class NvidiaErrors(ErrorFormat):
    """Errors as clients of NVIDIA's API read them."""

    prefix = "/v1/ranking"
    schema = NvidiaErrorResponse

    @override
    def body(self, refusal: Refusal) -> bytes:
        detail: object = refusal.sentence
        if refusal.status == 422:
            place = [int(one) if one.isdecimal() else one for one in _STEP.findall(refusal.where)]
            fault = {"loc": ["body", *place], "msg": refusal.sentence, "type": refusal.reason}
            detail = [fault]
        return orjson.dumps({"detail": detail})


_STEP = re.compile(r"\w+")  # of `passages[1].text`


class NvidiaText(msgspec.Struct):
    """A text."""

    text: str


class NvidiaRequest(msgspec.Struct):
    """What `POST /v1/ranking` takes; other fields mean nothing here."""

    query: Annotated[NvidiaText, msgspec.Meta(description="what the passages shall answer")]
    passages: Annotated[list[NvidiaText], msgspec.Meta(description="texts to rank")]
    model: Annotated[str | None, msgspec.Meta(description="any name: it chooses nothing")] = None
    truncate: Annotated[
        Literal["NONE", "END"] | None,
        msgspec.Meta(description="`NONE`: refuse a pair that is too long, uncut"),
    ] = None


class NvidiaRanking(msgspec.Struct):
    """A passage by its place in the request, and its logit: any number, the higher the better."""

    index: int
    logit: float


class NvidiaResponse(msgspec.Struct):
    """What `POST /v1/ranking` answers: all passages, the best first."""

    rankings: list[NvidiaRanking]


@dataclass(frozen=True, slots=True)
class NvidiaAsk(ParsedRequest):
    """Pairs.

    Attributes:
        uncut: what forbids a pair to be cut; empty where nothing does.
    """

    uncut: str


_DECODER = msgspec.json.Decoder(NvidiaRequest)


class NvidiaRerank(Endpoint[NvidiaAsk]):
    """The interface of NVIDIA's rerankers."""

    paths = ("/v1/ranking", "/v1/retrieval/nvidia/reranking")
    scores = True
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
    def parse(self, body: bytes | bytearray) -> NvidiaAsk:
        wanted = decode(_DECODER, body)
        texts = [one.text for one in wanted.passages]
        uncut = '`"truncate": "NONE"`' if wanted.truncate == "NONE" else ""
        return NvidiaAsk(pairs_of(wanted.query.text, texts, "passages"), uncut)

    @override
    def serialize(self, ask: NvidiaAsk, answers: Sequence[EmbeddingResult]) -> bytes:
        refuse_cut(ask, answers, ask.uncut)
        logits = logits_of(answers)
        rankings = [{"index": place, "logit": logits[place]} for place in ranking_of(logits)]
        return orjson.dumps({"rankings": rankings}, option=orjson.OPT_SERIALIZE_NUMPY)

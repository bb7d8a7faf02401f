"""`POST /rerank` with `texts`, the API of text-embeddings-inference.

Source: `router/src/http` of Hugging Face's text-embeddings-inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import orjson
from typing_extensions import override

from backends.model import EmbeddingResult
from backends.scores import identity, sigmoid
from web.endpoints.base import PAIRS, Description, Endpoint, ParsedRequest
from web.endpoints.json_body import decode
from web.endpoints.ranking import join_logits, make_pairs, rank
from web.endpoints.text_embeddings import EmbedErrors, Truncation, cut_forbidden_by
from web.endpoints.truncation import refuse_cut


class RerankTextsRequest(Truncation, kw_only=True):
    """The body of `POST /rerank` in the form of text-embeddings-inference."""

    query: Annotated[str, msgspec.Meta(description="what the texts shall answer")]
    texts: Annotated[list[str], msgspec.Meta(description="texts to rank")]
    raw_scores: Annotated[
        bool | None, msgspec.Meta(description="`true`: logits, not scores from 0 to 1")
    ] = None
    return_text: Annotated[
        bool | None, msgspec.Meta(description="`true`: each rank has its text")
    ] = None


class TextRank(msgspec.Struct, omit_defaults=True):
    """A text by its index in the request, and its score."""

    index: int
    score: float
    text: str | None = None


@dataclass(frozen=True, slots=True)
class ParsedRerankTexts(ParsedRequest):
    """A parsed request of pairs.

    Attributes:
        request: the decoded body, with the options of the answer.
    """

    request: RerankTextsRequest


_DECODER = msgspec.json.Decoder(RerankTextsRequest)


class RerankTexts(Endpoint[ParsedRerankTexts]):
    """The endpoint of text-embeddings-inference for rerankers."""

    paths = ("/rerank",)
    scores = True
    kinds = PAIRS
    description = Description(
        summary="Rank texts, as text-embeddings-inference does",
        request=RerankTextsRequest,
        response=list[TextRank],
        examples=[{"query": "a grey bird", "texts": ["A heron.", "A boat."]}],
    )
    errors = EmbedErrors()

    @override
    def parse(self, body: bytes | bytearray) -> ParsedRerankTexts:
        request = decode(_DECODER, body)
        return ParsedRerankTexts(make_pairs(request.query, request.texts, "texts"), request)

    @override
    def serialize(self, parsed: ParsedRerankTexts, answers: Sequence[EmbeddingResult]) -> bytes:
        request, logits = parsed.request, join_logits(answers)
        refuse_cut(parsed, answers, cut_forbidden_by(request))
        scores = (identity if request.raw_scores else sigmoid)(logits)
        ranks = [
            {"index": place, "score": scores[place]}
            | ({"text": request.texts[place]} if request.return_text else {})
            for place in rank(logits)
        ]
        return orjson.dumps(ranks, option=orjson.OPT_SERIALIZE_NUMPY)

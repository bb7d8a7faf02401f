"""`POST /rerank` with `texts`, as text-embeddings-inference answers it.

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
from web.endpoints.base import Description, Endpoint, ParsedRequest
from web.endpoints.json_body import decode
from web.endpoints.ranking import logits_of, pairs_of, ranking_of
from web.endpoints.text_embeddings import EmbedErrors, Truncation, cut_forbidden_by
from web.endpoints.truncation import refuse_cut


class RerankTextsRequest(Truncation, kw_only=True):
    """What `POST /rerank` takes in the form of text-embeddings-inference."""

    query: Annotated[str, msgspec.Meta(description="what the texts shall answer")]
    texts: Annotated[list[str], msgspec.Meta(description="texts to rank")]
    raw_scores: Annotated[
        bool | None, msgspec.Meta(description="`true`: logits, not scores from 0 to 1")
    ] = None
    return_text: Annotated[
        bool | None, msgspec.Meta(description="`true`: each rank has its text")
    ] = None


class TextRank(msgspec.Struct, omit_defaults=True):
    """A text by its place in the request, and its score."""

    index: int
    score: float
    text: str | None = None


@dataclass(frozen=True, slots=True)
class RerankTextsAsk(ParsedRequest):
    """Pairs.

    Attributes:
        wanted: the request.
    """

    wanted: RerankTextsRequest


_DECODER = msgspec.json.Decoder(RerankTextsRequest)


class RerankTexts(Endpoint[RerankTextsAsk]):
    """The interface of text-embeddings-inference for rerankers."""

    paths = ("/rerank",)
    scores = True
    description = Description(
        summary="Rank texts, as text-embeddings-inference does",
        request=RerankTextsRequest,
        response=list[TextRank],
        examples=[{"query": "a grey bird", "texts": ["A heron.", "A boat."]}],
    )
    errors = EmbedErrors()

    @override
    def parse(self, body: bytes | bytearray) -> RerankTextsAsk:
        wanted = decode(_DECODER, body)
        return RerankTextsAsk(pairs_of(wanted.query, wanted.texts, "texts"), wanted)

    @override
    def serialize(self, ask: RerankTextsAsk, answers: Sequence[EmbeddingResult]) -> bytes:
        wanted, logits = ask.wanted, logits_of(answers)
        refuse_cut(ask, answers, cut_forbidden_by(wanted))
        scores = (identity if wanted.raw_scores else sigmoid)(logits)
        ranks = [
            {"index": place, "score": scores[place]}
            | ({"text": wanted.texts[place]} if wanted.return_text else {})
            for place in ranking_of(logits)
        ]
        return orjson.dumps(ranks, option=orjson.OPT_SERIALIZE_NUMPY)

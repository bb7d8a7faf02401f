"""`POST /v2/rerank` and `/v1/rerank`, as clients of Cohere's and of Jina's API ask them.

Source: the API references of both, and the package `cohere`. Open WebUI and Weaviate's
`reranker-cohere` ask the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated
from uuid import uuid4

import msgspec
import orjson
from typing_extensions import override

from backends.model import EmbeddingResult
from backends.scores import sigmoid
from web.endpoints.base import Description, Endpoint, ParsedRequest
from web.endpoints.error_format import ErrorFormat, Refusal
from web.endpoints.json_body import decode
from web.endpoints.ranking import logits_of, pairs_of, ranking_of


class CohereErrorResponse(msgspec.Struct):
    """What an answer above 399 holds."""

    message: str


class CohereErrors(ErrorFormat):
    """Errors as clients of Cohere's API read them."""

    prefix = "/v2/"
    schema = CohereErrorResponse

    @override
    def body(self, refusal: Refusal) -> bytes:
        return orjson.dumps({"message": refusal.sentence})


class CohereDocument(msgspec.Struct):
    """A document; other fields of it mean nothing here."""

    text: str


class CohereRequest(msgspec.Struct):
    """What `POST /v2/rerank` takes; other fields, such as `max_tokens_per_doc`, mean nothing."""

    query: Annotated[str, msgspec.Meta(description="what the documents shall answer")]
    documents: Annotated[
        list[str | CohereDocument], msgspec.Meta(description="texts to rank, or objects with one")
    ]
    model: Annotated[
        str | None, msgspec.Meta(description="any name: it is sent back, and chooses nothing")
    ] = None
    top_n: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        msgspec.Meta(description="answer so many of the best; all where it is missing"),
    ] = None
    return_documents: Annotated[
        bool | None, msgspec.Meta(description="`true`: each result has its document's text")
    ] = None


class CohereResult(msgspec.Struct, omit_defaults=True):
    """A document by its place in the request, and how relevant it is, from 0 to 1."""

    index: int
    relevance_score: float
    document: CohereDocument | None = None


class CohereVersion(msgspec.Struct):
    """The version of the API that an answer follows."""

    version: str


class CohereTokens(msgspec.Struct):
    """The tokens that the model read, the query's for each document, special ones included."""

    input_tokens: int


class CohereMeta(msgspec.Struct):
    """What Cohere's clients read of an answer beside its results."""

    api_version: CohereVersion
    tokens: CohereTokens


class JinaUsage(msgspec.Struct):
    """The same tokens, as Jina's clients read them."""

    prompt_tokens: int
    total_tokens: int


class CohereResponse(msgspec.Struct):
    """What `POST /v2/rerank` answers: the documents that were asked for, the best first."""

    id: str
    model: str
    results: list[CohereResult]
    meta: CohereMeta
    usage: JinaUsage


@dataclass(frozen=True, slots=True)
class CohereAsk(ParsedRequest):
    """Pairs, and how the answer is written.

    Attributes:
        texts: the documents.
        wanted: the request.
    """

    texts: Sequence[str]
    wanted: CohereRequest


_DECODER = msgspec.json.Decoder(CohereRequest)


class CohereRerank(Endpoint[CohereAsk]):
    """The interface of Cohere's and of Jina's rerankers."""

    paths = ("/v2/rerank", "/v1/rerank")
    scores = True
    description = Description(
        summary="Rank documents, as Cohere's and Jina's APIs do",
        request=CohereRequest,
        response=CohereResponse,
        examples=[
            {
                "model": "any",
                "query": "a grey bird",
                "documents": ["A heron.", {"text": "A boat."}],
                "top_n": 1,
            }
        ],
    )
    errors = CohereErrors()

    @override
    def parse(self, body: bytes | bytearray) -> CohereAsk:
        wanted = decode(_DECODER, body)
        texts = [one if isinstance(one, str) else one.text for one in wanted.documents]
        return CohereAsk(pairs_of(wanted.query, texts, "documents"), texts, wanted)

    @override
    def serialize(self, ask: CohereAsk, answers: Sequence[EmbeddingResult]) -> bytes:
        wanted, logits = ask.wanted, logits_of(answers)
        scores, tokens = sigmoid(logits), sum(answer.tokens for answer in answers)
        results = [
            {"index": place, "relevance_score": scores[place]}
            | ({"document": {"text": ask.texts[place]}} if wanted.return_documents else {})
            for place in ranking_of(logits)[: wanted.top_n]
        ]
        content = {
            "id": str(uuid4()),
            "model": self.info.name if wanted.model is None else wanted.model,
            "results": results,
            "meta": {"api_version": {"version": "2"}, "tokens": {"input_tokens": tokens}},
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)

"""`POST /v2/rerank` and `/v1/rerank`, the rerank APIs of Cohere and Jina.

Source: the API references of both, and the package `cohere`. Open WebUI and Weaviate's
`reranker-cohere` use the same API.
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
from web.endpoints.base import PAIRS, Description, Endpoint, ParsedRequest
from web.endpoints.error_format import ErrorFormat, ErrorInfo
from web.endpoints.json_body import decode
from web.endpoints.ranking import join_logits, make_pairs, rank


class CohereErrorResponse(msgspec.Struct):
    """The body of an error."""

    message: str


class CohereErrors(ErrorFormat):
    """The error format of Cohere's API."""

    prefix = "/v2/"
    schema = CohereErrorResponse

    @override
    def body(self, error_info: ErrorInfo) -> bytes:
        return orjson.dumps({"message": error_info.message})


class CohereDocument(msgspec.Struct):
    """A document; other fields are ignored."""

    text: str


class CohereRequest(msgspec.Struct):
    """The body of `POST /v2/rerank`; other fields, such as `max_tokens_per_doc`, are ignored."""

    query: Annotated[str, msgspec.Meta(description="what the documents shall answer")]
    documents: Annotated[
        list[str | CohereDocument], msgspec.Meta(description="texts to rank, or objects with one")
    ]
    model: Annotated[
        str | None,
        msgspec.Meta(description="any name: it is sent back, and chooses among several models"),
    ] = None
    top_n: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        msgspec.Meta(description="answer so many of the best; all where it is missing"),
    ] = None
    return_documents: Annotated[
        bool | None, msgspec.Meta(description="`true`: each result has its document's text")
    ] = None


class CohereResult(msgspec.Struct, omit_defaults=True):
    """A document by its index in the request, and its relevance from 0 to 1."""

    index: int
    relevance_score: float
    document: CohereDocument | None = None


class CohereVersion(msgspec.Struct):
    """The version of the API that an answer follows."""

    version: str


class CohereTokens(msgspec.Struct):
    """Number of tokens that the model read, including special tokens, and the query each time."""

    input_tokens: int


class CohereMeta(msgspec.Struct):
    """The `meta` of an answer for Cohere's clients."""

    api_version: CohereVersion
    tokens: CohereTokens


class JinaUsage(msgspec.Struct):
    """The number of tokens for Jina's clients."""

    prompt_tokens: int
    total_tokens: int


class CohereResponse(msgspec.Struct):
    """The answer of `POST /v2/rerank`: the best `top_n` documents, the best first."""

    id: str
    model: str
    results: list[CohereResult]
    meta: CohereMeta
    usage: JinaUsage


@dataclass(frozen=True, slots=True)
class ParsedCohere(ParsedRequest):
    """A parsed request of pairs, with the options of its answer.

    Attributes:
        texts: the documents.
        request: the decoded body, with the options of the answer.
    """

    texts: Sequence[str]
    request: CohereRequest


_DECODER = msgspec.json.Decoder(CohereRequest)


class CohereRerank(Endpoint[ParsedCohere]):
    """The endpoint of Cohere's and Jina's rerankers."""

    paths = ("/v2/rerank", "/v1/rerank")
    scores = True
    kinds = PAIRS
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
    def parse(self, body: bytes | bytearray) -> ParsedCohere:
        request = decode(_DECODER, body)
        texts = [one if isinstance(one, str) else one.text for one in request.documents]
        return ParsedCohere(make_pairs(request.query, texts, "documents"), texts, request)

    @override
    def serialize(self, parsed: ParsedCohere, answers: Sequence[EmbeddingResult]) -> bytes:
        request, logits = parsed.request, join_logits(answers)
        scores, tokens = sigmoid(logits), sum(answer.tokens for answer in answers)
        results = [
            {"index": place, "relevance_score": scores[place]}
            | ({"document": {"text": parsed.texts[place]}} if request.return_documents else {})
            for place in rank(logits)[: request.top_n]
        ]
        content = {
            "id": str(uuid4()),
            "model": self.model_name(request.model),
            "results": results,
            "meta": {"api_version": {"version": "2"}, "tokens": {"input_tokens": tokens}},
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)

"""`POST /rerank`, for Weaviate's `reranker-transformers` module: scores of documents.

Source: that module, which reads the scores by their position, and the container behind it. Clients
of other APIs use the same path: the fields of a body tell the APIs apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import orjson
from typing_extensions import override

from backends.model import EmbeddingResult, ModelInfo, Pair
from backends.scores import ACTIVATIONS
from config import Settings
from errors import InvalidInputError
from inference.request import EmbedInput
from web.endpoints.base import PAIRS, Description, Endpoint, ParsedRequest
from web.endpoints.cohere import CohereRerank
from web.endpoints.json_body import FieldFinder, decode
from web.endpoints.ranking import join_logits, make_pairs
from web.endpoints.rerank_texts import RerankTexts


class RerankRequest(msgspec.Struct):
    """The body of `POST /rerank`: a query, and documents or a single document as a property."""

    query: Annotated[str, msgspec.Meta(description="what the documents shall answer")]
    documents: Annotated[
        list[str] | None, msgspec.Meta(description="texts to score, in the order of the scores")
    ] = None
    property: Annotated[
        str | None, msgspec.Meta(description="the one text to score, where there are no documents")
    ] = None


class DocumentScore(msgspec.Struct):
    """A document and its score; a higher score is a better answer to the query."""

    document: str
    score: float


class RerankResponse(msgspec.Struct):
    """The answer of `POST /rerank`: the scores of documents in order, or a single score."""

    query: str
    scores: list[DocumentScore] | None
    property: str | None
    score: float | None


@dataclass(frozen=True, slots=True)
class ParsedRerank(ParsedRequest):
    """A parsed request: pairs of the query and each document.

    Attributes:
        request: the decoded body, with the options of the answer.
    """

    request: RerankRequest


_DECODER = msgspec.json.Decoder(RerankRequest)
_OF_COHERE = {"model", "top_n", "return_documents"}  # fields of Cohere's API
_FIELDS = FieldFinder("texts", "documents", *_OF_COHERE)


class Rerank(Endpoint[ParsedRerank]):
    """The endpoint of Weaviate's `reranker-transformers` module."""

    paths = ("/rerank",)
    alternatives = (RerankTexts, CohereRerank)
    scores = True
    kinds = PAIRS
    description = Description(
        summary="Score how well documents answer a query",
        request=RerankRequest,
        response=RerankResponse,
        examples=[{"query": "a grey bird", "documents": ["A heron.", "A boat."]}],
    )

    def __init__(self, settings: Settings, info: ModelInfo) -> None:
        super().__init__(settings, info)
        self._texts = RerankTexts(settings, info)
        self._cohere = CohereRerank(settings, info)

    @override
    def of_body(self, body: bytes | bytearray) -> Endpoint[Any]:
        given = _FIELDS.find(body)
        if {"texts", "documents"} <= given:
            raise InvalidInputError(
                'the request body: "texts" beside "documents"; send one of them', "body"
            )
        if "texts" in given:
            return self._texts
        return self._cohere if "documents" in given and given & _OF_COHERE else self

    @override
    def parse(self, body: bytes | bytearray) -> ParsedRerank:
        request = decode(_DECODER, body)
        if request.documents is not None:
            pairs = make_pairs(request.query, request.documents, "documents")
        elif request.property is not None:
            pair = Pair(request.query, request.property)
            pairs = [EmbedInput("property", "pair", pair, is_query=True)]
        else:
            raise InvalidInputError(
                'the request body: expected "documents" beside the "query", or a "property"', "body"
            )
        return ParsedRerank(pairs, request)

    @override
    def serialize(self, parsed: ParsedRerank, answers: Sequence[EmbeddingResult]) -> bytes:
        scores = ACTIVATIONS[self.info.activation](join_logits(answers))
        request = parsed.request
        content: dict[str, object] = {"query": request.query}
        if request.documents is None:
            content |= {"scores": None, "property": request.property, "score": scores[0]}
        else:
            scored = [
                {"document": text, "score": score}
                for text, score in zip(request.documents, scores, strict=True)
            ]
            content |= {"scores": scored, "property": None, "score": None}
        # Each number as the shortest decimal that parses back to the same float32.
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)

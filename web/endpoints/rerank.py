"""`POST /rerank`, for Weaviate's `reranker-transformers` module: scores of documents.

Source: that module, which reads the scores by their position, and the container behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
import orjson
from typing_extensions import override

from backends.model import EmbeddingResult, Pair
from backends.scores import ACTIVATIONS
from errors import InvalidInputError
from inference.request import EmbedInput
from web.endpoints.base import Description, Endpoint, ParsedRequest
from web.endpoints.json_body import decode


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
class RerankAsk(ParsedRequest):
    """A parsed request: pairs of the query and each document.

    Attributes:
        wanted: the body.
    """

    wanted: RerankRequest


_DECODER = msgspec.json.Decoder(RerankRequest)


class Rerank(Endpoint[RerankAsk]):
    """The endpoint of Weaviate's `reranker-transformers` module."""

    paths = ("/rerank",)
    scores = True
    description = Description(
        summary="Score how well documents answer a query",
        request=RerankRequest,
        response=RerankResponse,
        examples=[{"query": "a grey bird", "documents": ["A heron.", "A boat."]}],
    )

    @property
    @override
    def max_items(self) -> int:
        return self.settings.max_request_documents

    @override
    def parse(self, body: bytes | bytearray) -> RerankAsk:
        wanted = decode(_DECODER, body)
        if wanted.documents is not None:
            named = [(f"documents[{i}]", text) for i, text in enumerate(wanted.documents)]
        elif wanted.property is not None:
            named = [("property", wanted.property)]
        else:
            raise InvalidInputError(
                'the request body: expected "documents" beside the "query", or a "property"', "body"
            )
        pairs = [
            EmbedInput(name, "pair", Pair(wanted.query, text), is_query=True)
            for name, text in named
        ]
        return RerankAsk(pairs, wanted)

    @override
    def serialize(self, ask: RerankAsk, answers: Sequence[EmbeddingResult]) -> bytes:
        logits = np.array([answer.vector[0] for answer in answers], np.float32)
        scores = ACTIVATIONS[self.info.activation](logits)
        wanted = ask.wanted
        content: dict[str, object] = {"query": wanted.query}
        if wanted.documents is None:
            content |= {"scores": None, "property": wanted.property, "score": scores[0]}
        else:
            scored = [
                {"document": text, "score": score}
                for text, score in zip(wanted.documents, scores, strict=True)
            ]
            content |= {"scores": scored, "property": None, "score": None}
        # Each number as the shortest decimal that parses back to the same float32.
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)

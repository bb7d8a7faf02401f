"""The base class of endpoints: each endpoint is one wire format, and one handler serves all.

    body -> parse -> ParsedRequest -> vectorizer.embed -> [EmbeddingResult] -> serialize -> body

An endpoint is created when the model is loaded. `web/endpoints/__init__.py` registers its class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import msgspec

from backends.model import EmbeddingResult, Modality, ModelInfo
from config import Settings
from inference.request import EmbedInput
from web.endpoints.error_format import ErrorFormat, SentenceErrors


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A parsed request; an endpoint adds fields that its answer needs.

    Attributes:
        inputs: the inputs to embed or score, in the order of the answers.
    """

    inputs: Sequence[EmbedInput]


@dataclass(frozen=True, slots=True)
class Description:
    """The OpenAPI description of an endpoint.

    Attributes:
        summary: its purpose in a few words.
        request: the type of a body; `msgspec.Meta` describes its fields.
        response: the type of an answer: a Struct, a list, or a union.
        examples: example bodies, for any model of their modalities.
    """

    summary: str
    request: type[msgspec.Struct]
    response: Any
    examples: Sequence[Mapping[str, Any]]


# Groups of kinds. A model of the first group that has a model answers requests without a name.
Kinds: TypeAlias = tuple[tuple[Modality, ...], ...]
EITHER: Kinds = (("text", "image"),)
TEXTS_FIRST: Kinds = (("text",), ("image",))
IMAGES_FIRST: Kinds = (("image",), ("text",))
PAIRS: Kinds = (("pair",),)

ParsedT = TypeVar("ParsedT", bound=ParsedRequest)


class Endpoint(ABC, Generic[ParsedT]):
    """An endpoint: parses and serializes one wire format.

    Args:
        settings: the settings, for the limits.
        info: facts about the loaded model.

    Attributes:
        paths: the paths of its POST routes. The first path is the endpoint's name in metrics; all
            paths have its error format. `GET /` belongs to the debug page.
        description: its description for OpenAPI.
        errors: the error format of paths below its prefix.
        alternatives: other endpoints on the same paths; see `of_body`.
        scores: whether the endpoint returns scores of a reranker, and not vectors.
        kinds: the kinds of models that answer it.
    """

    paths: ClassVar[tuple[str, ...]]
    description: ClassVar[Description]
    errors: ClassVar[ErrorFormat] = SentenceErrors()
    alternatives: ClassVar[Sequence[type[Endpoint[Any]]]] = ()
    scores: ClassVar[bool] = False
    kinds: ClassVar[Kinds] = EITHER

    def __init__(self, settings: Settings, info: ModelInfo) -> None:
        self.settings = settings
        self.info = info

    @classmethod
    def serves(cls, kind: Modality) -> bool:
        """Return whether models of a kind answer the endpoint."""
        return any(kind in group for group in cls.kinds)

    @property
    def max_items(self) -> int:
        """Maximum number of inputs in a request."""
        settings = self.settings
        return settings.max_request_documents if self.scores else settings.max_request_items

    def model_name(self, sent: str | None) -> str:
        """Return the model's name in a response: the name that the request sent, or its own."""
        return self.info.name if sent is None else sent

    def of_body(self, body: bytes | bytearray) -> Endpoint[Any]:
        """Return the endpoint that serves a body: this endpoint, or an alternative.

        Raises:
            InvalidInputError: the body fits several endpoints.
        """
        return self

    @abstractmethod
    def parse(self, body: bytes | bytearray) -> ParsedT:
        """Parse a body. The caller clears the body afterwards.

        Raises:
            InvalidInputError: the body is invalid; the message names the place.
            RequestTooLargeError: the body holds too much.
        """

    @abstractmethod
    def serialize(self, parsed: ParsedT, answers: Sequence[EmbeddingResult]) -> bytes:
        """Serialize an answer to JSON, in the order of the request.

        Raises:
            InvalidInputError: a text was truncated, and the request forbids that.
        """

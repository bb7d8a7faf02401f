"""What an interface is: one wire format, and nothing else. One handler serves all of them.

    body -> parse -> Ask(inputs) -> vectorizer.embed -> [EmbeddingResult] -> serialize -> body

It is made once the model is loaded, and registered by a line in `web/endpoints/__init__.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from backends.model import EmbeddingResult, ModelInfo
from config import Settings
from inference.request import EmbedInput
from web.endpoints.error_format import ErrorFormat, SentenceErrors


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """What a request asks for; an interface adds fields that its answer needs.

    Attributes:
        inputs: what shall become vectors or scores, in the order of the answers.
    """

    inputs: Sequence[EmbedInput]


@dataclass(frozen=True, slots=True)
class Description:
    """An interface, described to those who use it.

    Attributes:
        summary: what it is for, in a few words.
        request: the fields of a body; what they are for is said by `msgspec.Meta`.
        response: the type of an answer: a Struct, a list, or a union of them.
        examples: bodies that work with any model of the modalities that they name.
    """

    summary: str
    request: type[msgspec.Struct]
    response: Any
    examples: Sequence[Mapping[str, Any]]


ParsedT = TypeVar("ParsedT", bound=ParsedRequest)


class Endpoint(ABC, Generic[ParsedT]):
    """An interface.

    Args:
        settings: its limits.
        info: what is loaded.

    Attributes:
        paths: where it is asked by POST: the first is counted, the others mean it, and have the
            shape of its errors. GET of `/` stays the page's.
        description: of it, for OpenAPI.
        errors: how errors are worded below its prefix.
        alternatives: other interfaces that are asked on its paths as well; see `of_body`.
        scores: whether it asks for scores, which rerankers alone give, and not for vectors.
    """

    paths: ClassVar[tuple[str, ...]]
    description: ClassVar[Description]
    errors: ClassVar[ErrorFormat] = SentenceErrors()
    alternatives: ClassVar[Sequence[type[Endpoint[Any]]]] = ()
    scores: ClassVar[bool] = False

    def __init__(self, settings: Settings, info: ModelInfo) -> None:
        self.settings = settings
        self.info = info

    @classmethod
    def operation_id(cls) -> str:
        """Name the interface, for its route and for OpenAPI."""
        return cls.paths[0].strip("/").replace("/", "_")

    @property
    def max_items(self) -> int:
        """Most inputs of one request."""
        settings = self.settings
        return settings.max_request_documents if self.scores else settings.max_request_items

    def of_body(self, body: bytes | bytearray) -> Endpoint[Any]:
        """Return the interface that a body is meant for: this one, or an alternative.

        Raises:
            InvalidInputError: it could be meant for several.
        """
        return self

    @abstractmethod
    def parse(self, body: bytes | bytearray) -> ParsedT:
        """Read a request; the body is emptied afterwards.

        Raises:
            InvalidInputError: it is not what it should be; the message says where.
            RequestTooLargeError: it holds too much.
        """

    @abstractmethod
    def serialize(self, ask: ParsedT, answers: Sequence[EmbeddingResult]) -> bytes:
        """Write the JSON of an answer, which has the ask's order.

        Raises:
            InvalidInputError: the request forbids what its texts would have needed.
        """

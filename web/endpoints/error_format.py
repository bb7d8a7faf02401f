"""How errors are worded: one sentence for all interfaces, in the shape that each of them has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, NamedTuple

import msgspec
import orjson
from typing_extensions import override

from errors import Reason


class Refusal(NamedTuple):
    """Why a request got no vectors.

    Attributes:
        status: by the one table of `web/errors.py`.
        sentence: what is wrong, for the person who can fix it.
        reason: the same in a word or two.
        where: the item or field at fault; empty where it is none of them.
    """

    status: int
    sentence: str
    reason: Reason
    where: str = ""


class ErrorFormat(ABC):
    """The shape of the errors of all paths that begin alike.

    Attributes:
        prefix: how they begin; of several that fit a path, the longest counts.
        schema: describes a body for OpenAPI.
    """

    prefix: ClassVar[str]
    schema: ClassVar[type[msgspec.Struct]]

    def status(self, status: int) -> int:
        """Return the status that stands here for one of the table; most often itself."""
        return status

    @abstractmethod
    def body(self, refusal: Refusal) -> bytes:
        """Write the JSON of an error."""


class ErrorResponse(msgspec.Struct):
    """What every answer above 399 holds: Weaviate shows its user this string and nothing else."""

    error: Annotated[str, msgspec.Meta(examples=["images[1]: not an image"])]


class SentenceErrors(ErrorFormat):
    """One sentence, as Weaviate reads it; of every path that no other format claims."""

    prefix = "/"
    schema = ErrorResponse

    @override
    def body(self, refusal: Refusal) -> bytes:
        return orjson.dumps({"error": refusal.sentence})

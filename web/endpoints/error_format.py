"""Error formats: the JSON shapes of errors of the different wire formats."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, NamedTuple

import msgspec
import orjson
from typing_extensions import override

from errors import Reason


class ErrorInfo(NamedTuple):
    """An error of a request, for its error format.

    Attributes:
        status: the status, by the table of `web/errors.py`.
        message: the error message, for the person who can fix the error.
        reason: the metric label of the error.
        where: the item or field at fault; empty for the whole request.
    """

    status: int
    message: str
    reason: Reason
    where: str = ""


class ErrorFormat(ABC):
    """The error format of all paths with a prefix.

    Attributes:
        prefix: the prefix of the paths; of several matching prefixes, the longest counts.
        schema: the type of an error body, for OpenAPI.
    """

    prefix: ClassVar[str]
    schema: ClassVar[type[msgspec.Struct]]

    def status(self, status: int) -> int:
        """Return this format's status for a status of `web/errors.py`; by default the same."""
        return status

    @abstractmethod
    def body(self, error_info: ErrorInfo) -> bytes:
        """Serialize an error to JSON."""


class ErrorResponse(msgspec.Struct):
    """The body of every error; Weaviate shows its user only this string."""

    error: Annotated[str, msgspec.Meta(examples=["images[1]: not an image"])]


class SentenceErrors(ErrorFormat):
    """The default error format: one sentence, as Weaviate expects it."""

    prefix = "/"
    schema = ErrorResponse

    @override
    def body(self, error_info: ErrorInfo) -> bytes:
        return orjson.dumps({"error": error_info.message})

"""The error format and the list of models that all paths of OpenAI's API (`/v1/`) share."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec
import orjson
from typing_extensions import TypedDict, override

from web.endpoints.error_format import ErrorFormat, ErrorInfo


class ErrorDetail(msgspec.Struct):
    """An error: message, type, parameter and code."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIErrorResponse(msgspec.Struct):
    """The body of errors below `/v1/`."""

    error: ErrorDetail


class OpenAIErrors(ErrorFormat):
    """The error format of OpenAI's API."""

    prefix = "/v1/"
    schema = OpenAIErrorResponse
    _TYPES: ClassVar = {401: "authentication_error", 429: "rate_limit_error"}

    @override
    def status(self, status: int) -> int:
        return 400 if status == 422 else status

    @override
    def body(self, error_info: ErrorInfo) -> bytes:
        fault = "server_error" if error_info.status >= 500 else "invalid_request_error"
        error = {
            "message": error_info.message,
            "type": self._TYPES.get(error_info.status, fault),
            "param": error_info.where or None,
            "code": error_info.reason,
        }
        return orjson.dumps({"error": error})


class ModelObject(TypedDict):
    """An entry of `GET /v1/models`."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    """The answer of `GET /v1/models`."""

    object: Literal["list"]
    data: list[ModelObject]


def model_object(name: str, created: int) -> ModelObject:
    """Return the entry of a model in the list; `created` is in seconds since 1970."""
    return {"id": name, "object": "model", "created": created, "owned_by": "local"}

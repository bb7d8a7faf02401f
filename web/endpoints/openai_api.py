"""What everything below `/v1/` has in common with OpenAI's API: its errors, and its models."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec
import orjson
from typing_extensions import TypedDict, override

from backends.model import ModelInfo
from web.endpoints.error_format import ErrorFormat, Refusal


class ErrorDetail(msgspec.Struct):
    """What is wrong: in a sentence, by its kind, where, and in a word."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIErrorResponse(msgspec.Struct):
    """What every answer above 399 holds below `/v1/`."""

    error: ErrorDetail


class OpenAIErrors(ErrorFormat):
    """Errors as clients of OpenAI's API read them."""

    prefix = "/v1/"
    schema = OpenAIErrorResponse
    _TYPES: ClassVar = {401: "authentication_error", 429: "rate_limit_error"}

    @override
    def status(self, status: int) -> int:
        return 400 if status == 422 else status

    @override
    def body(self, refusal: Refusal) -> bytes:
        fault = "server_error" if refusal.status >= 500 else "invalid_request_error"
        error = {
            "message": refusal.sentence,
            "type": self._TYPES.get(refusal.status, fault),
            "param": refusal.where or None,
            "code": refusal.reason,
        }
        return orjson.dumps({"error": error})


class ModelObject(TypedDict):
    """A model, as `GET /v1/models` lists it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    """What `GET /v1/models` answers."""

    object: Literal["list"]
    data: list[ModelObject]


def model_object(info: ModelInfo, created: int) -> ModelObject:
    """Describe the model that is loaded."""
    return {"id": info.name, "object": "model", "created": created, "owned_by": "local"}

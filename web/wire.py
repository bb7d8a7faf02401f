"""What every error looks like on the wire."""

from __future__ import annotations

import orjson
from fastapi import Response
from pydantic import BaseModel, Field


class ErrorResponse(BaseModel):
    """What every answer above 399 holds: Weaviate shows its user this string and nothing else."""

    error: str = Field(examples=["images[1]: not an image"])


def error_response(status: int, sentence: str, **headers: str) -> Response:
    """Answer an error."""
    content = orjson.dumps({"error": sentence})
    return Response(content, status, headers=headers, media_type="application/json")

"""Rejects requests that forbid truncation, if the model truncates a text."""

from __future__ import annotations

from collections.abc import Sequence

from backends.model import EmbeddingResult
from errors import InvalidInputError
from web.endpoints.base import ParsedRequest


def refuse_cut(
    parsed: ParsedRequest, answers: Sequence[EmbeddingResult], forbidden_by: str
) -> None:
    """Reject a request that forbids truncation, if an item was truncated.

    Args:
        parsed: the request.
        answers: the results of its items.
        forbidden_by: the option that forbids truncation; empty if it is allowed.

    Raises:
        InvalidInputError: an item was truncated; the message names it.
    """
    for one, answer in zip(parsed.inputs, answers, strict=True):
        if forbidden_by and answer.truncated:
            raise InvalidInputError(
                f"longer than the model reads; truncation is forbidden by {forbidden_by}",
                "text_length",
            ).at(one.name)

"""Requests that forbid a text to be cut: they are refused where the model cuts one all the same."""

from __future__ import annotations

from collections.abc import Sequence

from backends.model import EmbeddingResult
from errors import InvalidInputError
from web.endpoints.base import ParsedRequest


def refuse_cut(ask: ParsedRequest, answers: Sequence[EmbeddingResult], forbidden_by: str) -> None:
    """Refuse the first item that was cut, where something forbids it.

    Args:
        ask: the request.
        answers: of its items.
        forbidden_by: the part of the request that does; empty where nothing does.

    Raises:
        InvalidInputError: the item is named.
    """
    for one, answer in zip(ask.inputs, answers, strict=True):
        if forbidden_by and answer.truncated:
            raise InvalidInputError(
                "longer than the model reads, and it would be cut at its end, against "
                f"{forbidden_by}",
                "text_length",
            ).at(one.name)

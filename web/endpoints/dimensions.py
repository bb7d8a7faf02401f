"""Checks the number of dimensions that a request wants of its vectors."""

from __future__ import annotations

from backends.model import ModelInfo
from errors import InvalidInputError


def kept(dimensions: int | None, info: ModelInfo, name: str = "dimensions") -> int | None:
    """Return the number of dimensions to keep; None for all.

    Args:
        dimensions: the requested number; None for all.
        info: facts about the model.
        name: the field's name in errors.

    Raises:
        InvalidInputError: the model's vectors cannot be truncated, or have fewer dimensions.
    """
    whole = info.dimensions
    if dimensions is None or dimensions == whole:
        return None
    if not info.cuts:
        raise InvalidInputError(
            f"this model's vectors have {whole} numbers, and cannot be cut to {dimensions}", "body"
        ).at(name)
    if dimensions > whole:
        raise InvalidInputError(f"this model's vectors have only {whole} numbers", "body").at(name)
    return dimensions

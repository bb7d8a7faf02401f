"""How many numbers of a vector a request asks for, and whether the model allows it."""

from __future__ import annotations

from backends.model import ModelInfo
from errors import InvalidInputError


def kept(dimensions: int | None, info: ModelInfo, name: str = "dimensions") -> int | None:
    """Return how many of a vector's first numbers are kept; None for all.

    Args:
        dimensions: as many are asked for.
        info: the model.
        name: by which an error calls them.

    Raises:
        InvalidInputError: the model's vectors cannot be cut, or have fewer numbers.
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

"""The base class of input processors that keep each input as a single chunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backends.model import Arrays, Chunks, EmbeddingResult, EncodeParams, ModelInput, Vector
from errors import InvalidInputError


class SinglePart:
    """Default methods of `InputProcessor`, for single-chunk inputs without parameters or ids."""

    reading = ""
    is_chunked = False

    def resolve(self, _params: EncodeParams) -> EncodeParams:
        """Ignore all parameters."""
        return EncodeParams()

    def split(self, content: Any, _params: EncodeParams) -> Chunks:
        """Return an input as a single chunk."""
        return Chunks([content])

    def collate(self, items: Sequence[ModelInput]) -> Arrays:
        """Stack the arrays of items of one bucket: each result is [n, ...]."""
        columns = zip(*(item.arrays for item in items), strict=True)
        return tuple(np.stack(column) for column in columns)

    def limit_ids(self, _rows: int) -> None:
        """Do nothing: there are no token ids."""

    def decode(self, _ids: Sequence[int]) -> str:
        """Reject token ids: there is no vocabulary.

        Raises:
            InvalidInputError: always.
        """
        raise InvalidInputError(
            "token ids, and this model has no vocabulary to read them by", "body"
        )

    def join(self, parts: Sequence[EmbeddingResult], divisor: int) -> EmbeddingResult:
        """Combine the results of an input's chunks.

        The vector is the sum of the chunks' vectors, divided by `divisor`; the tokens are summed.
        The input counts as truncated if any chunk was truncated.
        """
        if len(parts) == divisor == 1:
            return parts[0]
        total: Vector = np.stack([part.vector for part in parts]).sum(axis=0)
        return EmbeddingResult(
            total / np.float32(divisor),
            sum(part.tokens for part in parts),
            any(part.truncated for part in parts),
        )

"""What most preparations have in common: an input is one part, and there is one way to read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backends.model import Arrays, Chunks, EmbeddingResult, EncodeParams, ModelInput, Vector
from errors import InvalidInputError


class SinglePart:
    """The half of a `InputProcessor` that knows nothing of its modality."""

    reading = ""
    is_chunked = False

    def resolve(self, _params: EncodeParams) -> EncodeParams:
        """Read nothing of it: every request gets the same vector."""
        return EncodeParams()

    def split(self, content: Any, _params: EncodeParams) -> Chunks:
        """Leave an input whole."""
        return Chunks([content])

    def collate(self, items: Sequence[ModelInput]) -> Arrays:
        """Stack the arrays of items of one bucket: [n, ...] each."""
        columns = zip(*(item.arrays for item in items), strict=True)
        return tuple(np.stack(column) for column in columns)

    def limit_ids(self, _rows: int) -> None:
        """Do nothing: there are no ids."""

    def text_of(self, _ids: Sequence[int]) -> str:
        """Say that there is no vocabulary.

        Raises:
            InvalidInputError: always.
        """
        raise InvalidInputError(
            "token ids, and this model has no vocabulary to read them by", "body"
        )

    def join(self, parts: Sequence[EmbeddingResult], divisor: int) -> EmbeddingResult:
        """Add the vectors up and divide; tokens add up, and one part that was cut makes it cut."""
        if len(parts) == divisor == 1:
            return parts[0]
        total: Vector = np.stack([part.vector for part in parts]).sum(axis=0)
        return EmbeddingResult(
            total / np.float32(divisor),
            sum(part.tokens for part in parts),
            any(part.truncated for part in parts),
        )

"""What most preparations have in common: an input is one part, and there is one way to read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backends.model import Arrays, Embedded, Parts, Prepared, Shaping, Vector
from errors import InvalidInputError


class OnePart:
    """The half of a `Preparation` that knows nothing of its modality."""

    reading = ""
    splits = False

    def reduce(self, _shaping: Shaping) -> Shaping:
        """Read nothing of it: every request gets the same vector."""
        return Shaping()

    def split(self, content: Any, _shaping: Shaping) -> Parts:
        """Leave an input whole."""
        return Parts([content])

    def collate(self, items: Sequence[Prepared]) -> Arrays:
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

    def join(self, parts: Sequence[Embedded], divisor: int) -> Embedded:
        """Add the vectors up and divide; tokens add up, and one part that was cut makes it cut."""
        if len(parts) == divisor == 1:
            return parts[0]
        total: Vector = np.stack([part.vector for part in parts]).sum(axis=0)
        return Embedded(
            total / np.float32(divisor),
            sum(part.tokens for part in parts),
            any(part.truncated for part in parts),
        )

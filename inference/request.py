"""What a request asks for, whatever the interface that it came by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from backends.model import Embedded, Modality, Shaping


@dataclass(frozen=True, slots=True)
class Finish:
    """What is done to a vector behind the cache.

    Attributes:
        dimensions: keep so many of the first, and give what is left length 1; None for all.
        unit_length: whether the vector shall have length 1.
    """

    dimensions: int | None = None
    unit_length: bool = False

    def __call__(self, embedded: Embedded) -> Embedded:
        """Return the same answer, cut and scaled."""
        vector = embedded.vector[: self.dimensions]
        if not (self.unit_length or self.dimensions):
            return embedded
        length = float(np.linalg.norm(vector))
        return embedded._replace(vector=vector / np.float32(length or 1.0))


# A text, the base64 of an image's file, or a text as ids of the model's own vocabulary.
Content: TypeAlias = str | Sequence[int]

_AS_IT_IS, _AS_IT_COMES = Shaping(), Finish()


@dataclass(frozen=True, slots=True)
class Input:
    """A text or an image that shall become a vector.

    Attributes:
        name: by which errors call it, such as `images[1]`.
        modality: which tower reads it.
        content: what it is.
        shaping: how it is read.
        finish: what is done to its vector.
        is_query: whether it goes before all that are none.
    """

    name: str
    modality: Modality
    content: Content
    shaping: Shaping = _AS_IT_IS
    finish: Finish = _AS_IT_COMES
    is_query: bool = False

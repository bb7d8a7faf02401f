"""What a model is known by: the original's content, and how it is read. Never what computes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

from backends.folder import LAYOUTS, Family
from backends.model import InputProcessor, Modality, ModelInfo, TextMode

# How this version reads each family: raise a family's number by hand when a change of ours moves
# its vectors by more than the tolerance. Its models are then converted anew, and have another
# vector space: who upgrades has to import again. An entry here: `| {"siglip": 2}`.
PREPROCESSING_VERSIONS: dict[Family, int] = dict.fromkeys(LAYOUTS, 1)

NO_READINGS: Mapping[Modality, str] = MappingProxyType({})


@dataclass(frozen=True)
class Identity:
    """What was read, and how.

    Attributes:
        family: the layout of the original.
        content: the digest of its files.
        recipe: by which it was read; see `PREPROCESSING_VERSIONS`.
        text_modes: in all of which its texts have these vectors.
    """

    family: Family
    content: str
    recipe: int
    text_modes: Sequence[TextMode]

    def vector_space(
        self, arithmetic: Mapping[Modality, str], readings: Mapping[Modality, str] = NO_READINGS
    ) -> str:
        """Digest all that shapes a vector, or a score: two of one space can be compared.

        Args:
            arithmetic: each tower's, of weights and activations, such as `float32`: not what was
                asked for, but what is used.
            readings: how the operator wants inputs read; see `readings_of`.
        """
        shapes = [self.family, self.content, self.recipe, sorted(self.text_modes), dict(arithmetic)]
        if readings:
            shapes.append(dict(readings))
        return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()[:12]


class Prepares(Protocol):
    """A tower, whatever computes it."""

    @property
    def processor(self) -> InputProcessor:
        """Of its inputs."""
        ...


def readings_of(towers: Mapping[Modality, Prepares]) -> dict[Modality, str]:
    """Return how the operator wants inputs read, of those towers that can be told."""
    readings = {modality: tower.processor.reading for modality, tower in towers.items()}
    return {modality: reading for modality, reading in readings.items() if reading}


def with_space(
    info: ModelInfo,
    identity: Identity,
    arithmetic: Mapping[Modality, str],
    towers: Mapping[Modality, Prepares],
) -> ModelInfo:
    """Say the space of a model's vectors, or of its scores.

    Args:
        info: of the model, without it.
        identity: of the model.
        arithmetic: as for `Identity.vector_space`.
        towers: the model's.
    """
    readings = readings_of(towers)
    if info.scores:
        of_scores = identity.vector_space(arithmetic, {**readings, "pair": info.activation})
        return replace(info, score_space=of_scores)
    return replace(info, vector_space=identity.vector_space(arithmetic, readings))

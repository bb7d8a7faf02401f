"""The identity of a model: its original files and its preprocessing, but not the runtime."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

from backends.folder import LAYOUTS, Family
from backends.model import InputProcessor, Modality, ModelInfo, TextMode

# The preprocessing version of each family. Raise it if a change of this code changes the family's
# vectors by more than the tolerance: add, for example, `| {"siglip": 2}`. Then the family's models
# are converted again and get another vector space, and users must import their data again.
PREPROCESSING_VERSIONS: dict[Family, int] = dict.fromkeys(LAYOUTS, 1)

NO_READINGS: Mapping[Modality, str] = MappingProxyType({})


@dataclass(frozen=True)
class Identity:
    """The identity of a model, whether converted or not.

    Attributes:
        family: the family of the original model.
        content: the digest of the original's files.
        recipe: the preprocessing version; see `PREPROCESSING_VERSIONS`.
        text_modes: the text modes that the model serves, all with the same vectors.
    """

    family: Family
    content: str
    recipe: int
    text_modes: Sequence[TextMode]

    def vector_space(
        self, arithmetic: Mapping[Modality, str], readings: Mapping[Modality, str] = NO_READINGS
    ) -> str:
        """Return the name of the vector space (or score space).

        Vectors (or scores) can be compared if their spaces have equal names.

        Args:
            arithmetic: for each tower, the arithmetic in use, such as `float32`.
            readings: for each tower, the operator's preprocessing settings; see
                `collect_readings`.
        """
        shapes = [self.family, self.content, self.recipe, sorted(self.text_modes), dict(arithmetic)]
        if readings:
            shapes.append(dict(readings))
        return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()[:12]


class Prepares(Protocol):
    """An object with an input processor, such as a tower of any runtime."""

    @property
    def processor(self) -> InputProcessor:
        """The tower's input processor."""
        ...


def collect_readings(towers: Mapping[Modality, Prepares]) -> dict[Modality, str]:
    """Return each tower's preprocessing settings by the operator; leave out towers without any."""
    readings = {modality: tower.processor.reading for modality, tower in towers.items()}
    return {modality: reading for modality, reading in readings.items() if reading}


def with_space(
    info: ModelInfo,
    identity: Identity,
    arithmetic: Mapping[Modality, str],
    towers: Mapping[Modality, Prepares],
) -> ModelInfo:
    """Return `info` with the model's vector space, or with its score space if it is a reranker.

    Args:
        info: the model's info, without either space.
        identity: the model's identity.
        arithmetic: as for `Identity.vector_space`.
        towers: the model's towers.
    """
    readings = collect_readings(towers)
    if info.scores:
        of_scores = identity.vector_space(arithmetic, {**readings, "pair": info.activation})
        return replace(info, score_space=of_scores)
    return replace(info, vector_space=identity.vector_space(arithmetic, readings))

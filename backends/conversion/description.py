"""A converted model's `model.json`: all that its other files do not say, so that it serves alone.

    model.json          identity, what the weights are (and why not 8 bits, if these failed), what
                        is shown of the model, and for each tower its preparation (kind and
                        parameters) and its network (kind and file)
    tokenizer.json      the vocabulary (of SigLIP 1: spiece.model, special_tokens.json)
    text.xml, text.bin, image.xml, image.bin       the networks; of those in stages, a pair a stage
    source.json         the sizes and times of the original's files, where it was converted

In place of all but `source.json`, a model that could not be converted has a `refusal.json`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backends.folder import DESCRIPTION, FORMATS
from backends.identity import Identity
from backends.model import Modality, ModelInfo, Precision, Weights
from backends.preprocessing.loaders import Described

_REFUSAL = "refusal.json"
_SHOWN = (
    *("family", "dimensions", "parameters", "image_px", "is_demo", "config", "cuts"),
    "activations",
)


@dataclass(frozen=True)
class TowerDescription:
    """One tower of a converted model.

    Attributes:
        preparation: its kind, and the kind's parameters.
        network: its kind, and its file or files.
    """

    preparation: Described
    network: Described

    @property
    def files(self) -> Sequence[str]:
        """The networks' descriptions in its folder; of one in stages, those of all stages."""
        return [stage["file"] for stage in self.network.get("stages", [self.network])]


@dataclass(frozen=True)
class Description:
    """A converted model.

    Attributes:
        identity: what it was made of.
        shown: what a `ModelInfo` says of it, whatever computes it.
        towers: one for each modality.
        weights: what those of its products are.
        refused: why it could not be written in 8 bits, where these were asked for; else empty.
    """

    identity: Identity
    shown: Mapping[str, Any]
    towers: Mapping[Modality, TowerDescription]
    weights: Weights = "float32"
    refused: str = ""

    @property
    def made_for(self) -> Precision | None:
        """The precision that was asked for when it was written; None for none in particular."""
        return "int8" if self.weights == "int8" or self.refused else None

    @classmethod
    def of(
        cls, identity: Identity, info: ModelInfo, towers: Mapping[Modality, TowerDescription]
    ) -> Description:
        """Describe a model."""
        shown = {name: getattr(info, name) for name in _SHOWN}
        if not shown["activations"]:  # a reranker's alone
            del shown["activations"]
        return cls(identity, shown, towers)

    def write(self, folder: Path) -> None:
        """Write it into a converted model's folder."""
        _write(folder / DESCRIPTION, {"format": FORMATS[self.weights], **asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> Description:
        """Read it from there."""
        parts = _read(folder / DESCRIPTION)
        towers = {name: TowerDescription(**tower) for name, tower in parts["towers"].items()}
        weights = parts.get("weights", "float32")  # said since there are others
        refused = parts.get("refused", "")
        return cls(Identity(**parts["identity"]), parts["shown"], towers, weights, refused)


@dataclass(frozen=True)
class Refusal:
    """That a model cannot be converted, so that no start tries again.

    Attributes:
        identity: the model.
        reason: why.
        code: what tried (see `fingerprint.of_code`): another version may succeed.
    """

    identity: Identity
    reason: str
    code: str

    def write(self, folder: Path) -> None:
        """Write it into a folder."""
        _write(folder / _REFUSAL, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Refusal:
        """Read it from there."""
        parts = _read(folder / _REFUSAL)
        return cls(Identity(**parts["identity"]), parts["reason"], parts["code"])

    @staticmethod
    def all_in(place: Path) -> list[Path]:
        """Return the folders in `place` that hold one."""
        return [path.parent for path in sorted(place.glob(f"*/{_REFUSAL}"))]


def _write(path: Path, content: Mapping[str, object]) -> None:
    part = path.with_suffix(".part")
    try:
        part.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        if path.exists():
            shutil.copymode(path, part)
        part.replace(path)  # a start that reads it meanwhile has the one or the other
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content

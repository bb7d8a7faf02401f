"""A converted model's `model.json`: with it, a folder serves without the original.

    model.json          identity, type of the weights (and why not int8, if that failed), facts
                        for `/meta`, and for each tower its input processor (kind and
                        parameters) and its network (kind and file)
    tokenizer.json      the vocabulary (of SigLIP 1: spiece.model, special_tokens.json)
    text.xml, text.bin, image.xml, image.bin       the networks; of those in stages, a pair a stage
    source.json         the sizes and times of the original's files, where it was converted

A model that could not be converted has a `refusal.json` in place of all but `source.json`.
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
        preparation: the kind of its input processor, and its parameters.
        network: the kind of its network, and its files.
    """

    preparation: Described
    network: Described

    @property
    def files(self) -> Sequence[str]:
        """The names of the network files in its folder; for a network in stages, one a stage."""
        return [stage["file"] for stage in self.network.get("stages", [self.network])]


@dataclass(frozen=True)
class Description:
    """A converted model.

    Attributes:
        identity: the original, its preprocessing version and its text modes.
        shown: the fields of `ModelInfo` that do not depend on the runtime.
        towers: one for each modality.
        weights: the type of the weights of matrix products.
        refused: why it was not quantized to int8, if int8 was requested; else empty.
    """

    identity: Identity
    shown: Mapping[str, Any]
    towers: Mapping[Modality, TowerDescription]
    weights: Weights = "float32"
    refused: str = ""

    @property
    def made_for(self) -> Precision | None:
        """The precision that was requested at the conversion; None if there was none."""
        return "int8" if self.weights == "int8" or self.refused else None

    @classmethod
    def describe(
        cls, identity: Identity, info: ModelInfo, towers: Mapping[Modality, TowerDescription]
    ) -> Description:
        """Describe a model."""
        shown = {name: getattr(info, name) for name in _SHOWN}
        if not shown["activations"]:  # a reranker's alone
            del shown["activations"]
        return cls(identity, shown, towers)

    def write(self, folder: Path) -> None:
        """Write `model.json` into a folder."""
        _write(folder / DESCRIPTION, {"format": FORMATS[self.weights], **asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> Description:
        """Read the file from a folder."""
        parts = _read(folder / DESCRIPTION)
        towers = {name: TowerDescription(**tower) for name, tower in parts["towers"].items()}
        weights = parts.get("weights", "float32")  # the key is missing in older ones
        refused = parts.get("refused", "")
        return cls(Identity(**parts["identity"]), parts["shown"], towers, weights, refused)


@dataclass(frozen=True)
class Refusal:
    """The reason why a model cannot be converted, so that no start tries again.

    Attributes:
        identity: the identity of the model.
        reason: the error of the conversion.
        code: the digest of the code that tried (see `fingerprint.digest_code`): another version may
            succeed.
    """

    identity: Identity
    reason: str
    code: str

    def write(self, folder: Path) -> None:
        """Write `refusal.json` into a folder."""
        _write(folder / _REFUSAL, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Refusal:
        """Read the file from a folder."""
        parts = _read(folder / _REFUSAL)
        return cls(Identity(**parts["identity"]), parts["reason"], parts["code"])

    @staticmethod
    def all_in(place: Path) -> list[Path]:
        """Return the folders in `place` that hold a `refusal.json`."""
        return [path.parent for path in sorted(place.glob(f"*/{_REFUSAL}"))]


def _write(path: Path, content: Mapping[str, object]) -> None:
    part = path.with_suffix(".part")
    try:
        part.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        if path.exists():
            shutil.copymode(path, part)
        part.replace(path)  # atomic: a start that reads meanwhile sees a whole file
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content

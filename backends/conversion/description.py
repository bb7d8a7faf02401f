"""Reads and writes `model.json`, which describes a converted model.

The files in a converted model's folder, which serves without the original model:

    model.json          identity, type of the weights (and why int8 failed, if it did), facts
                        for `/meta`, and for each tower its input processor (kind and
                        parameters) and its network (kind and file)
    tokenizer.json      the vocabulary (for SigLIP 1: spiece.model, special_tokens.json)
    text.xml, text.bin, image.xml, image.bin       the networks; a network in stages has one
                        .xml and one .bin file for each stage
    source.json         the stamps of the original's files at the conversion (`fingerprint`)

If the model could not be converted, the folder holds `refusal.json` and `source.json` only.
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

_FAILED = "refusal.json"
_SHOWN = (
    *("family", "dimensions", "parameters", "image_px", "is_demo", "config", "cuts"),
    "activations",
)


@dataclass(frozen=True)
class TowerDescription:
    """The description of one tower of a converted model.

    Attributes:
        preparation: the kind of its input processor, and its parameters.
        network: the kind of its network, and its files.
    """

    preparation: Described
    network: Described

    @property
    def files(self) -> Sequence[str]:
        """The file names of the network in the converted model; of one in stages, one a stage."""
        return [stage["file"] for stage in self.network.get("stages", [self.network])]


@dataclass(frozen=True)
class Description:
    """The description of a converted model, as `model.json` stores it.

    Attributes:
        identity: the original model, its preprocessing version and its text modes.
        shown: the fields of `ModelInfo` that do not depend on the runtime.
        towers: the description of the tower of each modality.
        weights: the type of the weights of matrix products.
        refused: why the model was not quantized to int8, if int8 was requested; else empty.
    """

    identity: Identity
    shown: Mapping[str, Any]
    towers: Mapping[Modality, TowerDescription]
    weights: Weights = "float32"
    refused: str = ""

    @property
    def made_for(self) -> Precision | None:
        """The precision that was requested at the conversion; None if it was not int8."""
        return "int8" if self.weights == "int8" or self.refused else None

    @property
    def modality(self) -> Modality:
        """The kind of the model, by its inputs: pairs, images (and texts), or texts."""
        return next(one for one in ("pair", "image", "text") if one in self.towers)

    @classmethod
    def describe(
        cls, identity: Identity, info: ModelInfo, towers: Mapping[Modality, TowerDescription]
    ) -> Description:
        """Make the description (`model.json`) of a converted model with float32 weights."""
        shown = {name: getattr(info, name) for name in _SHOWN}
        if not shown["activations"]:  # only rerankers have activations
            del shown["activations"]
        return cls(identity, shown, towers)

    def write(self, folder: Path) -> None:
        """Write `model.json` into a folder."""
        _write(folder / DESCRIPTION, {"format": FORMATS[self.weights], **asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> Description:
        """Read `model.json` from a folder."""
        parts = _read(folder / DESCRIPTION)
        towers = {name: TowerDescription(**tower) for name, tower in parts["towers"].items()}
        weights = parts.get("weights", "float32")  # older files lack this key
        refused = parts.get("refused", "")
        return cls(Identity(**parts["identity"]), parts["shown"], towers, weights, refused)


@dataclass(frozen=True)
class FailedConversion:
    """The record that a model cannot be converted; with it, the service does not try again.

    Attributes:
        identity: the identity of the model.
        reason: the error of the conversion.
        code: the digest of the code that failed to convert it (see `fingerprint.digest_code`);
            another version of the code may succeed.
    """

    identity: Identity
    reason: str
    code: str

    def write(self, folder: Path) -> None:
        """Write `refusal.json` into a folder."""
        _write(folder / _FAILED, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> FailedConversion:
        """Read `refusal.json` from a folder."""
        parts = _read(folder / _FAILED)
        return cls(Identity(**parts["identity"]), parts["reason"], parts["code"])

    @staticmethod
    def all_in(place: Path) -> list[Path]:
        """Return the folders in `place` that hold a `refusal.json`."""
        return [path.parent for path in sorted(place.glob(f"*/{_FAILED}"))]


def _write(path: Path, content: Mapping[str, object]) -> None:
    part = path.with_suffix(".part")
    try:
        part.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        if path.exists():
            shutil.copymode(path, part)
        part.replace(path)  # atomic: another process never reads a partial file
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content

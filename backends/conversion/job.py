"""The conversion job: converts a model and runs the parity check, in a separate process.

    python -m backends.conversion.job < job.json      (see `jobs.py`)

The parity check compares results of the converted model with results of the family's own
libraries (see `parity_check.py`).
"""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path

import openvino as ov
import torch
from torch import nn

from backends.conversion import fingerprint
from backends.conversion.description import Description, FailedConversion, TowerDescription
from backends.conversion.parity_check import check_parity
from backends.families import load_towers
from backends.folder import detect
from backends.identity import PREPROCESSING_VERSIONS, Identity
from backends.jobs import Answer, subprocess_main
from backends.model import Modality, ModelOptions, TextMode
from backends.runtimes.openvino.runtime import load_converted
from backends.runtimes.torch.runtime import make_model
from backends.runtimes.torch.stages import PortableStages, TorchStage
from backends.runtimes.torch.towers import Portable, TorchModel
from errors import describe_error


@dataclass(frozen=True)
class ConvertJob:
    """The parameters of a conversion.

    Attributes:
        root: the model folder.
        target: the folder to write the converted model to.
        text_mode: as in `ModelOptions`.
        trust: whether the model may run Python code of its own.
        content: the digest of the model's files.
    """

    root: str
    target: str
    text_mode: TextMode
    trust: bool
    content: str


def convert(job: ConvertJob) -> Answer:
    """Convert and run the parity check; if either fails, write `refusal.json`.

    Raises:
        StartupError: the folder cannot be loaded.
        OSError, MemoryError: the machine failed, not the model; another attempt may succeed.
    """
    folder = detect(Path(job.root))
    options = ModelOptions(text_mode=job.text_mode, trust_remote_code=job.trust, in_stages=True)
    loaded = load_towers(folder, options)
    recipe = PREPROCESSING_VERSIONS[folder.family]
    identity = Identity(folder.family, job.content, recipe, loaded.text_modes)
    target = Path(job.target)
    target.mkdir()
    try:
        _write(loaded, identity, target)
        check_parity(make_model(loaded), load_converted(target, options))
    except (OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - the same model would fail again
        shutil.rmtree(target)
        target.mkdir()
        FailedConversion(identity, describe_error(error), fingerprint.digest_code()).write(target)
    return {}


def _write(loaded: TorchModel, identity: Identity, target: Path) -> None:
    torch.backends.mha.set_fastpath_enabled(value=False)  # cannot be converted
    towers = {
        modality: _write_tower(modality, tower.portable(), target)
        for modality, tower in loaded.towers.items()
    }
    Description.describe(identity, loaded.info, towers).write(target)


def _write_tower(
    modality: Modality, tower: Portable | PortableStages, target: Path
) -> TowerDescription:
    processor = tower.describe(target)
    if isinstance(tower, PortableStages):
        return TowerDescription(processor, _write_stages(tower, target))
    network = f"{modality}.xml"
    _save(_traced(tower.module, tower), target / network)
    return TowerDescription(processor, {"kind": "openvino", "file": network})


def _write_stages(tower: PortableStages, target: Path) -> dict[str, object]:
    """Write a tower's stages one by one; skip stages that another tower has already written."""
    described = []
    for stage in tower.stages:
        file = f"{stage.name}.xml"
        described.append({"file": file, "inputs": stage.inputs, "outputs": stage.outputs})
        if not (target / file).exists():
            module = stage.bring()  # the network shares its weights until it is written
            _save(_traced(module, stage), target / file)
    return {
        "kind": "stages",
        "stages": described,
        "inputs": tower.inputs,
        "gives_way": tower.gives_way,
    }


def _traced(module: nn.Module, described: Portable | TorchStage) -> ov.Model:
    examples = tuple(torch.from_numpy(array) for array in described.examples)
    with torch.inference_mode():
        model = ov.convert_model(module, example_input=examples)
    shapes = [ov.PartialShape(list(shape)) for shape in described.shapes]
    model.reshape(dict(enumerate(shapes)))
    return model


def _save(model: ov.Model, path: Path) -> None:
    try:
        ov.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:  # "iostream error" if the disk is full
        raise OSError(errno.EIO, f"{path} cannot be written; is the disk full?") from error


if __name__ == "__main__":
    subprocess_main(lambda described: convert(ConvertJob(**described)))

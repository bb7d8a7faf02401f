"""A process of its own: a model folder -> the same model for OpenVINO, and the proof.

    python -m backends.convert.job < job.json      (see `jobs.py`)

What was made is proven against the family's own libraries (`proof.py`).
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import openvino as ov
import torch
from PIL import Image
from torch import Tensor, nn

from backends.convert.proof import prove
from backends.families import load_towers
from backends.folder import detect
from backends.inputs.resampling import Pixels
from backends.inputs.tokens import Padding
from backends.jobs import Answer, subprocess_main
from backends.model import BackendOptions, TextMode
from backends.openvino.runtime import load_converted
from backends.openvino.store import IMAGES, REFUSAL, TEXTS, Description
from backends.torch.runtime import Portable, Towers, backend_of
from errors import describe_error


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        root: the model folder.
        target: the folder to write.
        text_mode: as in `BackendOptions`.
        trust: whether the model may run Python code of its own.
    """

    root: str
    target: str
    text_mode: TextMode
    trust: bool


def do(job: Job) -> Answer:
    """Convert, and prove; or leave the reason why this model cannot be converted.

    Raises:
        StartupError: the folder cannot be loaded.
        OSError, MemoryError: the machine is at fault, not the model; another try may succeed.
    """
    options = BackendOptions(text_mode=job.text_mode, trust_remote_code=job.trust)
    towers = load_towers(detect(Path(job.root)), options)
    original = backend_of(towers)
    target = Path(job.target)
    target.mkdir()
    try:
        _write(towers, towers.portable(), target)
        prove(original, load_converted(target, options))
    except (OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever this model cannot do, it cannot do later
        shutil.rmtree(target)
        target.mkdir()
        (target / REFUSAL).write_text(f"{describe_error(error)}\n", "utf-8")
    return {}


def _write(towers: Towers, portable: Portable, target: Path) -> None:
    torch.backends.mha.set_fastpath_enabled(value=False)  # its fused operation cannot be converted
    height, width = _pixels_of(towers).shape[1:]
    pixels = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    _save(towers.images, (pixels,), [-1, 3, height, width], target / IMAGES)
    ids, shape = _example_ids(portable.recipe.padding)
    arrays = (ids, torch.ones_like(ids)) if portable.recipe.padding.masked else (ids,)
    _save(portable.texts, arrays, shape, target / TEXTS)
    portable.save_vocabulary(target)
    Description(towers.info, portable.geometry, portable.recipe).write(target)


def _pixels_of(towers: Towers) -> Pixels:
    return towers.preprocess(Image.new("RGB", (64, 48)))


def _example_ids(padding: Padding) -> tuple[Tensor, list[int]]:
    if padding.to == "length":
        return torch.ones(2, padding.length, dtype=torch.long), [-1, padding.length]
    return torch.ones(2, 7, dtype=torch.long), [-1, -1]


def _save(network: nn.Module, example: Sequence[Tensor], shape: list[int], path: Path) -> None:
    with torch.inference_mode():
        model = ov.convert_model(network, example_input=tuple(example))
    model.reshape(dict.fromkeys(range(len(example)), ov.PartialShape(shape)))
    try:
        ov.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:  # of a full disk it says "iostream error"
        raise OSError(errno.EIO, f"{path} cannot be written; is the disk full?") from error


if __name__ == "__main__":
    subprocess_main(lambda described: do(Job(**described)))

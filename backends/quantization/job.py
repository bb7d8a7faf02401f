"""A process of its own: a converted model in float32 -> the same in 8 bits, and the proof of it.

    python -m backends.quantization.job < job.json      (see `backends/jobs.py`)

It needs no torch. What it makes are the bits that a start derives in memory.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import openvino as ov

from backends.conversion.description import Description
from backends.jobs import Answer, subprocess_main
from backends.model import ModelOptions
from backends.quantization import int8
from backends.quantization.quantization_check import compare_rough, embed_few
from backends.runtimes.openvino.core import read_network
from backends.runtimes.openvino.runtime import load_converted


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        source: the folder of the converted model.
        target: the folder to write.
    """

    source: str
    target: str


def do(job: Job) -> Answer:
    """Write the model in 8 bits, and prove it.

    Raises:
        ConversionError: in 8 bits it is not the same model.
    """
    source, target = Path(job.source), Path(job.target)
    quantize_model(source, target)
    options = ModelOptions(in_stages=True)
    drift = compare_rough(*(embed_few(load_converted(path, options)) for path in (source, target)))
    return {"drift": drift}


def quantize_model(source: Path, target: Path) -> None:
    """Write a converted model in 8 bits; all but its networks is copied."""
    description = Description.read(source)
    networks = {name for tower in description.towers.values() for name in tower.files}
    files = {Path(name).with_suffix(end).name for name in networks for end in (".xml", ".bin")}
    shutil.copytree(source, target, ignore=lambda _folder, names: files & {*names})
    for name in networks:
        network = read_network(source / name)
        int8.compress(network)
        ov.save_model(network, target / name, compress_to_fp16=False)
    replace(description, weights="int8", refused="").write(target)


if __name__ == "__main__":
    subprocess_main(lambda described: do(Job(**described)))

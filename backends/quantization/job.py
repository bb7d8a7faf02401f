"""The quantization job: quantizes a converted model to int8 and checks it, in a separate process.

    python -m backends.quantization.job < job.json      (see `backends/jobs.py`)

The job does not need torch. Its int8 weights equal, bit for bit, the weights that the service would
quantize in memory at startup.
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
class QuantizeJob:
    """The parameters of a quantization.

    Attributes:
        source: the folder of the model in float32.
        target: the folder to write the int8 model to.
    """

    source: str
    target: str


def quantize(job: QuantizeJob) -> Answer:
    """Quantize the model, and run the quantization check.

    Raises:
        ConversionError: the quantization check failed.
    """
    source, target = Path(job.source), Path(job.target)
    quantize_model(source, target)
    options = ModelOptions(in_stages=True)
    drift = compare_rough(*(embed_few(load_converted(path, options)) for path in (source, target)))
    return {"drift": drift}


def quantize_model(source: Path, target: Path) -> None:
    """Write a converted model to `target` with int8 weights; copy its other files."""
    description = Description.read(source)
    networks = {name for tower in description.towers.values() for name in tower.files}
    files = {Path(name).with_suffix(end).name for name in networks for end in (".xml", ".bin")}
    shutil.copytree(source, target, ignore=lambda _folder, names: files & {*names})
    for name in networks:
        network = read_network(source / name)
        int8.quantize_weights(network)
        ov.save_model(network, target / name, compress_to_fp16=False)
    replace(description, weights="int8", refused="").write(target)


if __name__ == "__main__":
    subprocess_main(lambda described: quantize(QuantizeJob(**described)))

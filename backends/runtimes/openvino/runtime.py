"""The OpenVINO runtime: loads converted models on the CPU, without torch.

See https://docs.openvino.ai/2026/openvino-workflow/running-inference.html
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from threadpoolctl import threadpool_limits

from backends.conversion.conversion_cache import converted
from backends.conversion.description import Description
from backends.conversion.entries import has_float32
from backends.folder import ModelFolder
from backends.identity import with_space
from backends.model import (
    Modality,
    Model,
    ModelInfo,
    ModelOptions,
    Precision,
    Tower,
    Weights,
)
from backends.precision import lacking, log_choice, log_refusal, usable
from backends.preprocessing.loaders import Described, read_preparation
from backends.quantization import int8
from backends.quantization.quantization_check import compare_rough, embed_few
from backends.runtimes.openvino.cpu_capabilities import precisions, speedups
from backends.runtimes.openvino.network import OpenVinoNetwork
from backends.runtimes.openvino.stages import OpenVinoStages, Shelf
from errors import ConversionError, ModelFolderError, describe_error

logger = logging.getLogger(__name__)

_DEVICE = "this CPU"
_UNUSED = "this model has no matrix products that use it"


def load(folder: ModelFolder, options: ModelOptions) -> Model:
    """Load the model of a folder; convert the model first if the cache lacks a converted model.

    Raises:
        ConversionError: the model cannot be converted, or the converted model cannot be loaded.
        ModelFolderError: see `conversion_cache.converted`; or only int8 weights are available, and
            this CPU does not support int8.
    """
    path = converted(folder, options)
    description = Description.read(path)
    wanted = options.precision or description.made_for
    if description.weights == "int8" and "int8" not in precisions():
        path = _in_float32(path, folder, options)
        description = Description.read(path)
    try:
        model, why = _load_checked(path, description, options)
    except Exception as error:  # any failure: torch can serve the model
        raise ConversionError(
            f"{path} cannot be loaded, delete it: {describe_error(error)}"
        ) from error
    used = model.info.precision
    unused = _UNUSED if wanted in precisions() else lacking(_DEVICE)
    refused = log_refusal(wanted, used, why or unused)
    exact = description.weights == "float32" or has_float32(folder, options)
    log_choice(_DEVICE, wanted, used, precisions(), speedups, exact=exact)
    return replace(model, info=replace(model.info, refused=refused))


def _in_float32(path: Path, folder: ModelFolder, options: ModelOptions) -> Path:
    """Return the folder of the same model in float32, for a CPU that does not support int8."""
    if not has_float32(folder, options):
        raise ModelFolderError(
            f"The model in {path.absolute()} is in int8, which this CPU cannot compute, and is "
            "not there in float32: build it with PRECISION=float32"
        )
    return converted(folder, replace(options, precision="float32"))


def _load_checked(path: Path, description: Description, options: ModelOptions) -> tuple[Model, str]:
    """Load a converted model; if it is quantized in memory, run the quantization check.

    Returns:
        The model, and the reason why it is not in int8. The reason is empty if the model is in
        int8, or if int8 was not requested.
    """
    # If int8 failed at the conversion, it is tried again only if the operator requests int8, as
    # another version of the code may succeed.
    if options.precision is None:
        return load_converted(path, options), description.refused
    if description.weights == "int8" or _precision(options, description.weights) != "int8":
        return load_converted(path, options), ""
    exact = replace(options, precision="float32")
    expected = embed_few(load_converted(path, exact))  # never both models in memory
    model = load_converted(path, options)
    try:
        logger.info("Quantized to int8: %s", compare_rough(expected, embed_few(model)))
    except ConversionError as error:
        return load_converted(path, exact), str(error)
    return model, ""


def load_converted(path: Path, options: ModelOptions) -> Model:
    """Load a converted model from its folder."""
    threadpool_limits(1, "blas")  # images are resized in parallel threads already
    description = Description.read(path)
    options = replace(options, precision=_precision(options, description.weights))
    shelf = Shelf(path, options, [tower.network for tower in description.towers.values()])
    # Compiling uses one core most of the time, so both towers compile in parallel.
    with ThreadPoolExecutor() as beside:
        compiled = {
            modality: beside.submit(_NETWORKS[tower.network["kind"]], shelf, tower.network)
            for modality, tower in description.towers.items()
        }
        processors = {
            modality: beside.submit(read_preparation, path, tower.preparation, options)
            for modality, tower in description.towers.items()
        }
    networks = {modality: one.result() for modality, one in compiled.items()}
    _check_dimensions(networks, description.shown["dimensions"])
    towers = {
        modality: Tower(processors[modality].result(), network)
        for modality, network in networks.items()
    }
    for modality, network in networks.items():
        if modality != "image" and network.rows is not None:
            towers[modality].processor.limit_ids(network.rows)
    used = {modality: network.precision() for modality, network in networks.items()}
    arithmetic = {
        modality: int8.arithmetic() if precision == "int8" else precision
        for modality, precision in used.items()
    }
    info = ModelInfo(
        **description.shown,
        runtime="openvino",
        device="cpu",
        precision=next((one for one in used.values() if one != "float32"), "float32"),
        text_mode=options.text_mode,
    )
    if info.precision == "int8" and not int8.multiplies():
        logger.info(
            "This CPU has no int8 instructions (AMX, VNNI): int8 takes a quarter of the memory, "
            "but is not faster"
        )
    return Model(with_space(info, description.identity, arithmetic, towers), towers)


def _check_dimensions(
    networks: Mapping[Modality, OpenVinoNetwork | OpenVinoStages], shown: int
) -> None:
    # Models converted by older versions declare `truncate_dim`, but do not apply it.
    if shown not in {network.dimensions or shown for network in networks.values()}:
        raise ConversionError(f"its vectors do not have the {shown} dimensions of its model.json")


def _precision(options: ModelOptions, weights: Weights) -> Precision:
    if weights == "int8":  # stored int8 weights are served in int8 only
        return "int8"
    if options.precision in (None, "float32"):
        return "float32"
    return usable(options.precision, precisions())


# The kinds of networks in `model.json`.
_NETWORKS: dict[str, Callable[[Shelf, Described], OpenVinoNetwork | OpenVinoStages]] = {
    "openvino": lambda shelf, described: OpenVinoNetwork(
        shelf.folder / described["file"], shelf.options
    ),
    "stages": OpenVinoStages,
}

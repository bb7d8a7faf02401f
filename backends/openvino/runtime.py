"""OpenVINO: runs converted models on the CPU, without torch and the families' own libraries.

See https://docs.openvino.ai/2026/openvino-workflow/running-inference.html
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from backends.faults import translate_device_errors
from backends.folder import ModelFolder
from backends.identity import with_space
from backends.inputs.kinds import read_preparation
from backends.model import (
    Modality,
    Model,
    ModelInfo,
    ModelOptions,
    Precision,
    Rows,
    Tower,
    Weights,
)
from backends.openvino import eight_bits
from backends.openvino.attention import share_causal_mask
from backends.openvino.constants import refuse_unfit_weights, token_rows
from backends.openvino.core import compile_network, read_network
from backends.openvino.description import Description
from backends.openvino.mapped_files import drop_mapped_pages
from backends.openvino.offers import NAMES, factors, precisions, properties_of
from backends.openvino.rough_proof import compare_rough, embed_few
from backends.openvino.store import converted, has_float32
from backends.precision import lacking, log_choice, tell_refusal, usable
from errors import ConversionError, ModelFolderError, describe_error
from machine import give_freed_memory_back

logger = logging.getLogger(__name__)

_DEVICE = "this CPU"
_UNUSED = "no product of this model is computed in it"

# As OpenVINO's graph calls the operations with weights.
_PRODUCTS = {"FullyConnected", "Convolution", "MatMul"}


def load(folder: ModelFolder, options: ModelOptions) -> Model:
    """Load the model of a folder, converting it before where that was never done.

    Raises:
        ConversionError: it cannot be converted, or what is kept of it cannot be loaded.
        ModelFolderError: see `store.converted`; or it is there in 8 bits alone, and this CPU
            computes none.
    """
    path = converted(folder, options)
    description = Description.read(path)
    wanted = options.precision or description.made_for
    if description.weights == "int8" and "int8" not in precisions():
        path = _in_float32(path, folder, options)
        description = Description.read(path)
    try:
        model, why = _load_proven(path, description, options)
    except Exception as error:  # whatever it is, the model can be served without this
        raise ConversionError(
            f"{path} cannot be loaded, delete it: {describe_error(error)}"
        ) from error
    used = model.info.precision
    unproven = _UNUSED if wanted in precisions() else lacking(_DEVICE)
    refused = tell_refusal(wanted, used, why or unproven)
    exact = description.weights == "float32" or has_float32(folder, options)
    log_choice(_DEVICE, wanted, used, precisions(), factors, exact=exact)
    return replace(model, info=replace(model.info, refused=refused))


def _in_float32(path: Path, folder: ModelFolder, options: ModelOptions) -> Path:
    """Return where the model of a folder in 8 bits, which this CPU does not compute, is exact."""
    if not has_float32(folder, options):
        raise ModelFolderError(
            f"The model in {path.absolute()} is in 8 bits, which this CPU cannot compute, and is "
            "not there in float32: build it with PRECISION=float32"
        )
    return converted(folder, replace(options, precision="float32"))


def _load_proven(path: Path, description: Description, options: ModelOptions) -> tuple[Model, str]:
    """Load a converted model; one that is turned into 8 bits here proves itself before.

    Returns:
        The model, and why it is not in 8 bits, where it differs too much in these.
    """
    # What was refused when it was written is tried again only where a start asks for it: another
    # version may succeed.
    if options.precision is None:
        return load_converted(path, options), description.refused
    if description.weights == "int8" or _precision(options, description.weights) != "int8":
        return load_converted(path, options), ""
    exact = replace(options, precision="float32")
    expected = embed_few(load_converted(path, exact))  # never both in memory
    model = load_converted(path, options)
    try:
        logger.info("In 8 bits: %s", compare_rough(expected, embed_few(model)))
    except ConversionError as error:
        return load_converted(path, exact), str(error)
    return model, ""


def load_converted(path: Path, options: ModelOptions) -> Model:
    """Load a converted model; what it takes lies in its folder."""
    threadpool_limits(1, "blas")  # the pool that resizes images is parallel by itself
    description = Description.read(path)
    options = replace(options, precision=_precision(options, description.weights))
    # Much of compiling keeps one core busy: side by side, two towers take half the time.
    with ThreadPoolExecutor() as beside:
        compiled = {
            modality: beside.submit(_network, path, tower.network, options)
            for modality, tower in description.towers.items()
        }
        preparations = {
            modality: beside.submit(read_preparation, path, tower.preparation, options)
            for modality, tower in description.towers.items()
        }
    networks = {modality: one.result() for modality, one in compiled.items()}
    _check_dimensions(networks, description.shown["dimensions"])
    towers = {
        modality: Tower(preparations[modality].result(), network)
        for modality, network in networks.items()
    }
    for modality, network in networks.items():
        if modality != "image" and network.rows is not None:
            towers[modality].preparation.limit_ids(network.rows)
    used = {modality: network.precision() for modality, network in networks.items()}
    arithmetic = {
        modality: eight_bits.arithmetic() if precision == "int8" else precision
        for modality, precision in used.items()
    }
    info = ModelInfo(
        **description.shown,
        runtime="openvino",
        device="cpu",
        precision=next((one for one in used.values() if one != "float32"), "float32"),
        text_mode=options.text_mode,
    )
    if info.precision == "int8" and not eight_bits.multiplies():
        logger.info(
            "This CPU has no instructions that multiply 8 bits: they take a quarter of the memory, "
            "and are not faster"
        )
    return Model(with_space(info, description.identity, arithmetic, towers), towers)


def _check_dimensions(networks: Mapping[Modality, OpenVinoNetwork], shown: int) -> None:
    # Before truncate_dim was obeyed, conversions said that they cut and did not.
    if shown not in {network.dimensions or shown for network in networks.values()}:
        raise ConversionError(f"its vectors do not have the {shown} dimensions that it says")


def _precision(options: ModelOptions, weights: Weights) -> Precision:
    if weights == "int8":  # and what was lost is in no other precision
        return "int8"
    if options.precision in (None, "float32"):
        return "float32"
    return usable(options.precision, precisions())


class OpenVinoNetwork:
    """A converted network as a `Network`; it is for one thread at a time.

    Args:
        path: the network's description; its weights lie beside it.
        options: the precision, and how many cores.

    Attributes:
        rows: how many ids it has embeddings for; None where it reads none.
    """

    def __init__(self, path: Path, options: ModelOptions) -> None:
        network = read_network(path)
        refuse_unfit_weights(network)
        self.rows = token_rows(_ids_of(network))
        share_causal_mask(network)
        self._in_8_bits = False
        if options.precision == "int8":
            eight_bits.compress(network)
            self._in_8_bits = eight_bits.quantise(network)
        self._asked = options.precision or "float32"
        compiled = compile_network(network, properties_of(self._asked), options.cores)
        self._request = compiled.create_infer_request()
        self._weights = path.with_suffix(".bin")
        drop_mapped_pages(self._weights)
        self._calls = 0
        self._largest = 0
        size = compiled.output(0).partial_shape[-1]
        self.dimensions: int | None = None if size.is_dynamic else size.get_length()

    def precision(self) -> Precision:
        """Return what a pass computes its products in, whatever was asked for."""
        if self._in_8_bits:
            return "int8"
        if self._asked in ("float32", "int8"):  # nothing is ever computed in more
            return "float32"
        compiled = self._request.get_compiled_model()
        self(*map(_smallest, compiled.inputs))
        products = (op.get_rt_info() for op in compiled.get_runtime_model().get_ops())
        used = {
            info["runtimePrecision"].value
            for info in products
            if info["layerType"].value in _PRODUCTS
        }
        rough = (name for name, names in NAMES.items() if names.short in used)
        return next((name for name in rough if name != "float32"), "float32")

    @translate_device_errors
    def __call__(self, *arrays: np.ndarray[Any, Any]) -> Rows:
        """Compute: arrays of [n, ...] -> rows of float32."""
        results = self._request.infer(list(arrays), share_inputs=True, share_outputs=True)
        rows: Rows = results[0].copy()  # the request writes the next ones over these
        self._give_back(sum(array.size for array in arrays))
        return rows

    def _give_back(self, size: int) -> None:
        self._calls += 1
        # Batches leave the weights in memory as the processor wants them, now and then again for
        # another size; what was mapped from the file for that would stay in memory beside it.
        if self._calls.bit_count() == 1:  # after 1, 2, 4, 8, ... calls
            drop_mapped_pages(self._weights)
        # What a pass computes in is kept for the next, and made anew for a larger batch: what was
        # kept for smaller ones lies between other things, too small to be used again.
        if size > self._largest:
            self._largest = size
            give_freed_memory_back()


def _ids_of(network: Any) -> Any:
    named = (port for port in network.inputs if "input_ids" in port.names)
    return next(named, network.inputs[0])


def _smallest(port: Any) -> np.ndarray[Any, Any]:
    shape = [1 if size.is_dynamic else size.get_length() for size in port.partial_shape]
    return np.zeros(shape, port.element_type.to_dtype())


# The kinds of network that a converted model can name.
_NETWORKS: dict[str, Callable[[Path, ModelOptions], OpenVinoNetwork]] = {
    "openvino": OpenVinoNetwork,
}


def _network(path: Path, described: Mapping[str, Any], options: ModelOptions) -> OpenVinoNetwork:
    return _NETWORKS[described["kind"]](path / described["file"], options)

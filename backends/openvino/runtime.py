"""OpenVINO: runs converted models on the CPU, without torch and the families' own libraries.

See https://docs.openvino.ai/2026/openvino-workflow/running-inference.html
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
from threadpoolctl import threadpool_limits

from backends.faults import translate_device_errors
from backends.folder import ModelFolder
from backends.identity import readings_of
from backends.inputs.kinds import read_preparation
from backends.model import Model, ModelInfo, ModelOptions, Precision, Rows, Tower
from backends.openvino.description import Description
from backends.openvino.mapped_files import drop_mapped_pages
from backends.openvino.store import converted
from backends.precision import log_choice, usable
from errors import ConversionError, describe_error

# OpenVINO's binding looks numpy up at the first use of a type, and two threads whose first uses
# meet wait for each other for ever, one with the interpreter's lock: here there is one thread.
ov.Type.f32.to_dtype()


class _Names(NamedTuple):
    """What OpenVINO calls a precision: as a capability, and in its hint and its graph."""

    capability: str
    short: str


_PRECISIONS: dict[Precision, _Names] = {
    "float32": _Names("FP32", "f32"),
    "bfloat16": _Names("BF16", "bf16"),
    "float16": _Names("FP16", "f16"),
}

# As OpenVINO's graph calls the operations with weights.
_PRODUCTS = {"FullyConnected", "Convolution", "MatMul"}


def load(folder: ModelFolder, options: ModelOptions) -> Model:
    """Load the model of a folder, converting it before where that was never done.

    Raises:
        ConversionError: it cannot be converted, or what is kept of it cannot be loaded.
        ModelFolderError: see `store.converted`.
    """
    path = converted(folder, options)
    try:
        model = load_converted(path, options)
    except Exception as error:  # whatever it is, the model can be served without this
        raise ConversionError(
            f"{path} cannot be loaded, delete it: {describe_error(error)}"
        ) from error
    log_choice("this CPU", options.precision, precisions())
    return model


def load_converted(path: Path, options: ModelOptions) -> Model:
    """Load a converted model; what it takes lies in its folder."""
    threadpool_limits(1, "blas")  # the pool that resizes images is parallel by itself
    options = replace(options, precision=usable(options.precision, precisions()))
    description = Description.read(path)
    networks = {
        modality: _NETWORKS[tower.network["kind"]](path / tower.network["file"], options)
        for modality, tower in description.towers.items()
    }
    towers = {
        modality: Tower(read_preparation(path, tower.preparation, options), networks[modality])
        for modality, tower in description.towers.items()
    }
    arithmetic = {modality: network.precision() for modality, network in networks.items()}
    info = ModelInfo(
        **description.shown,
        runtime="openvino",
        device="cpu",
        precision=next((one for one in arithmetic.values() if one != "float32"), "float32"),
        text_mode=options.text_mode,
        vector_space=description.identity.vector_space(arithmetic, readings_of(towers)),
    )
    return Model(info, towers)


@cache
def precisions() -> tuple[Precision, ...]:
    """Return what this CPU computes in by instructions of its own."""
    found = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(name for name, names in _PRECISIONS.items() if names.capability in found)


class OpenVinoNetwork:
    """A converted network as a `Network`; it is for one thread at a time.

    Args:
        path: the network's description; its weights lie beside it.
        options: the precision, and how many cores.
    """

    def __init__(self, path: Path, options: ModelOptions) -> None:
        compiled = ov.Core().compile_model(path, "CPU", _properties(options))
        self._request = compiled.create_infer_request()
        self._weights = path.with_suffix(".bin")
        drop_mapped_pages(self._weights)
        self._asked = options.precision
        self._calls = 0

    def precision(self) -> Precision:
        """Return what a pass computes its products in, whatever was asked for."""
        if self._asked == "float32":  # nothing is ever computed in more
            return "float32"
        compiled = self._request.get_compiled_model()
        self(*map(_smallest, compiled.inputs))
        products = (op.get_rt_info() for op in compiled.get_runtime_model().get_ops())
        used = {
            info["runtimePrecision"].value
            for info in products
            if info["layerType"].value in _PRODUCTS
        }
        rough = (name for name, names in _PRECISIONS.items() if names.short in used)
        return next((name for name in rough if name != "float32"), "float32")

    @translate_device_errors
    def __call__(self, *arrays: np.ndarray[Any, Any]) -> Rows:
        """Compute: arrays of [n, ...] -> rows of float32."""
        results = self._request.infer(list(arrays), share_inputs=True, share_outputs=True)
        rows: Rows = results[0].copy()  # the request writes the next ones over these
        self._drop_mapped_weights()
        return rows

    def _drop_mapped_weights(self) -> None:
        # Batches leave the weights in memory as the processor wants them, now and then again for
        # another size; what was mapped from the file for that would stay in memory beside it.
        self._calls += 1
        if self._calls.bit_count() == 1:  # after 1, 2, 4, 8, ... calls
            drop_mapped_pages(self._weights)


def _properties(options: ModelOptions) -> dict[str, Any]:
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": options.cores or 0,
        # Two networks compute side by side: each pinned to the same cores would wait for the other.
        "ENABLE_CPU_PINNING": False,
        # Said aloud, as OpenVINO takes bfloat16 by itself where the processor has it.
        "INFERENCE_PRECISION_HINT": _PRECISIONS[options.precision].short,
    }


def _smallest(port: Any) -> np.ndarray[Any, Any]:
    shape = [1 if size.is_dynamic else size.get_length() for size in port.partial_shape]
    return np.zeros(shape, port.element_type.to_dtype())


# The kinds of network that a converted model can name.
_NETWORKS: dict[str, Callable[[Path, ModelOptions], OpenVinoNetwork]] = {
    "openvino": OpenVinoNetwork,
}

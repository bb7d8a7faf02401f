"""OpenVINO: runs converted models on the CPU, without torch and the families' own libraries.

See https://docs.openvino.ai/2026/openvino-workflow/running-inference.html
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from threadpoolctl import threadpool_limits

from backends.faults import translate_device_errors
from backends.folder import ModelFolder
from backends.inputs.kinds import read_preparation
from backends.model import Model, ModelOptions, Precision, Rows, Tower
from backends.openvino.mapped_files import drop_mapped_pages
from backends.openvino.store import Description, converted
from backends.precision import log_choice, usable
from errors import ConversionError, describe_error

# What OpenVINO calls the capability, and the value of its hint, for each precision.
_CAPABILITIES: dict[Precision, str] = {"float32": "FP32", "bfloat16": "BF16", "float16": "FP16"}
_HINTS: dict[Precision, Any] = {
    "float32": ov.Type.f32,
    "bfloat16": ov.Type.bf16,
    "float16": ov.Type.f16,
}


def load(folder: ModelFolder, options: ModelOptions) -> Model:
    """Load the model of a folder, converting it before where that was never done.

    Raises:
        ConversionError: it cannot be converted, or what is kept of it cannot be loaded.
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
    """Load a converted model."""
    threadpool_limits(1, "blas")  # the pool that resizes images is parallel by itself
    options = replace(options, precision=usable(options.precision, precisions()))
    description = Description.read(path)
    towers = {
        modality: Tower(
            read_preparation(path, tower.preparation),
            OpenVinoNetwork(path / tower.network, options),
        )
        for modality, tower in description.towers.items()
    }
    info = replace(
        description.info,
        runtime="openvino",
        precision=options.precision,
        text_mode=options.text_mode,
    )
    return Model(info, towers)


@cache
def precisions() -> tuple[Precision, ...]:
    """Return what this CPU computes in by instructions of its own."""
    found = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return tuple(name for name, capability in _CAPABILITIES.items() if capability in found)


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
        self._calls = 0

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
        "INFERENCE_PRECISION_HINT": _HINTS[options.precision],
    }

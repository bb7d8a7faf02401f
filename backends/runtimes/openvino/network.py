"""A converted network, or a stage of one (see `stages.py`), compiled for this CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from backends.device_errors import translate_device_errors
from backends.model import ModelOptions, Precision, Rows
from backends.quantization import int8
from backends.runtimes.openvino.attention import share_causal_mask
from backends.runtimes.openvino.constants import refuse_unfit_weights, token_rows
from backends.runtimes.openvino.core import compile_network, read_network
from backends.runtimes.openvino.cpu_capabilities import NAMES, compile_properties
from backends.runtimes.openvino.mapped_files import drop_mapped_pages
from machine import give_freed_memory_back

# Names of operations with weights in OpenVINO's graph.
_PRODUCTS = {"FullyConnected", "Convolution", "MatMul"}


class OpenVinoNetwork:
    """A converted network as a `Network`; only one thread may call it at a time.

    Args:
        path: the network's `.xml`; its weights are in the `.bin` beside it.
        options: the precision and the number of cores.

    Attributes:
        rows: number of token embeddings; None if the network reads no ids.
        dimensions: length of the network's output rows; None if it varies.
    """

    def __init__(self, path: Path, options: ModelOptions) -> None:
        network = read_network(path)
        refuse_unfit_weights(network)
        ids = (port for port in network.inputs if "input_ids" in port.names)
        self.rows = token_rows(next(ids, network.inputs[0]))
        share_causal_mask(network)
        self._is_int8 = False
        if options.precision == "int8":
            int8.quantize_weights(network)
            self._is_int8 = int8.quantize_activations(network)
        # A lower precision speeds up matrix products only.
        has_products = any(op.get_type_name() in _PRODUCTS for op in network.get_ops())
        self._requested = (options.precision or "float32") if has_products else "float32"
        compiled = compile_network(network, compile_properties(self._requested), options.cores)
        self._request = compiled.create_infer_request()
        self._weights = path.with_suffix(".bin")
        drop_mapped_pages(self._weights)
        self._calls = 0
        self._largest = 0
        size = compiled.output(0).partial_shape[-1]
        self.dimensions: int | None = None if size.is_dynamic else size.get_length()

    def precision(self) -> Precision:
        """Return the precision that a forward pass really uses."""
        if self._is_int8:
            return "int8"
        if self._requested in ("float32", "int8"):  # always used as requested
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
        """Compute a batch: arrays [n, ...] -> rows [n, ...] float32."""
        results = self._request.infer(list(arrays), share_inputs=True, share_outputs=True)
        rows: Rows = results[0].copy()  # the next pass overwrites the result
        self._give_back(sum(array.size for array in arrays))
        return rows

    def _give_back(self, size: int) -> None:
        self._calls += 1
        # OpenVINO keeps repacked weights in memory, and repacks them again for some batch sizes.
        # The pages of the weight file that it reads for this would stay in memory too.
        if self._calls.bit_count() == 1:  # after 1, 2, 4, 8, ... calls
            drop_mapped_pages(self._weights)
        # OpenVINO keeps the buffers of a pass, and allocates new buffers for a larger batch. The
        # old buffers leave fragments in the heap that are too small to be used again.
        if size > self._largest:
            self._largest = size
            give_freed_memory_back()


def _smallest(port: Any) -> np.ndarray[Any, Any]:
    shape = [1 if size.is_dynamic else size.get_length() for size in port.partial_shape]
    return np.zeros(shape, port.element_type.to_dtype())

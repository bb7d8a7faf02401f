"""Checks that the weights in a network's file are finite, if vectors depend on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

from backends.weights import NOT_FINITE, do_not_fit

_SAME_IDS = ("Convert", "Reshape", "Squeeze", "Unsqueeze")  # operations that do not change ids


def refuse_unfit_weights(network: ov.Model) -> None:
    """Check that the constants on which the network's first output depends are finite.

    Raises:
        ValueError: some constants are not finite; the message names the first few.
    """
    needed = {network.results[0].get_name()}
    unfit: list[str] = []
    for op in reversed(network.get_ordered_ops()):
        if op.get_name() not in needed:
            continue
        needed.update(port.get_source_output().get_node().get_name() for port in op.inputs())
        if op.get_type_name() == "Constant" and not _is_fit(op):
            unfit.append(f"{op.get_friendly_name()} {NOT_FINITE}")
    if unfit:
        unfit.reverse()  # in the order of the computation
        raise ValueError(do_not_fit(unfit))


def token_rows(ids: ov.Output) -> int | None:
    """Find the embedding of token ids, and return its number of rows; None if not found."""
    places = [ids]
    while places:
        for port in places.pop().get_target_inputs():
            op = port.get_node()
            if op.get_type_name() == "Gather" and port.get_index() == 1:
                rows = op.input(0).get_partial_shape()[0]
                return None if rows.is_dynamic else int(rows.get_length())
            if op.get_type_name() in _SAME_IDS:
                places.extend(op.outputs())
    return None


def _is_fit(constant: Any) -> bool:
    if not constant.get_element_type().is_real() or constant.get_byte_size() == 0:
        return True
    values: npt.NDArray[Any] = constant.data
    # `min` and `max` do not copy the array, and are NaN if any number is NaN.
    if np.isfinite([values.min(), values.max()]).all():
        return True
    finite = values[np.isfinite(values)]
    return not np.isnan(values).any() and not finite.any()  # masks have minus infinity and 0

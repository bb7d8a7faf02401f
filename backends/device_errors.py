"""Classifies a device's errors: out of memory, device lost, or any other."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from errors import DeviceLostError, DeviceMemoryError, describe_error

P = ParamSpec("P")
R = TypeVar("R")

# Messages for lack of memory, by torch's GPU and CPU allocators and by OpenVINO. All of them raise
# a RuntimeError.
_NO_MEMORY = ("out of memory", "can't allocate memory", "bad_alloc", "bad allocation")
# Messages of CUDA's libraries if they cannot allocate memory for their workspace.
_NO_WORKSPACE = ("ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED")


def always() -> bool:
    """Return True: a CPU still works after any error."""
    return True


def translate_device_errors(
    compute: Callable[P, R], still_answers: Callable[[], bool] = always
) -> Callable[P, R]:
    """Wrap a computation so that its errors become DeviceMemoryError or DeviceLostError.

    Args:
        compute: the computation.
        still_answers: function that returns whether the device still works after a failure. After
            some failures it works as before; after others all calls fail until the process ends.
    """

    @wraps(compute)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return compute(*args, **kwargs)
        except (MemoryError, RuntimeError) as error:
            if _is_memory_error(error):
                fault: Exception = DeviceMemoryError(describe_error(error))
            elif not still_answers():
                fault = DeviceLostError(describe_error(error))
            else:
                raise
        raise fault  # outside of `except`: the first error's traceback keeps the batch in memory

    return wrapped


def _is_memory_error(error: Exception) -> bool:
    signs = _NO_MEMORY + _NO_WORKSPACE
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)

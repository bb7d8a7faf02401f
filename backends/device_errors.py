"""Classifies a device's errors: out of memory, device lost, or any other."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from errors import DeviceLostError, DeviceMemoryError, describe_error

P = ParamSpec("P")
R = TypeVar("R")

# Messages of torch's allocators for GPU and CPU, and of OpenVINO; all raise a RuntimeError.
_NO_MEMORY = ("out of memory", "can't allocate memory", "bad_alloc", "bad allocation")
# Messages of CUDA's libraries if there is no memory for their workspace.
_NO_WORKSPACE = ("ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED")


def always() -> bool:
    """Report a device as working: a CPU cannot be lost."""
    return True


def translate_device_errors(
    compute: Callable[P, R], still_answers: Callable[[], bool] = always
) -> Callable[P, R]:
    """Wrap a computation so that its errors become DeviceMemoryError or DeviceLostError.

    Args:
        compute: the computation.
        still_answers: checks the device after a failure. After some failures a device works as
            before; after others every call fails until the process ends.
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

"""A device's errors by kind: too little memory, lost for good, or anything else."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from errors import DeviceLostError, DeviceMemoryError, describe_error

P = ParamSpec("P")
R = TypeVar("R")

# What torch's allocators for GPU and CPU say, and OpenVINO's; all raise a RuntimeError.
_NO_MEMORY = ("out of memory", "can't allocate memory", "bad_alloc", "bad allocation")
# What CUDA's libraries say where their own workspace finds no place.
_NO_WORKSPACE = ("ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED")


def always() -> bool:
    """Answer for a device that cannot be lost."""
    return True


def translate_device_errors(
    compute: Callable[P, R], still_answers: Callable[[], bool] = always
) -> Callable[P, R]:
    """Wrap a computation: raises DeviceMemoryError or DeviceLostError where those happened.

    Args:
        compute: the computation.
        still_answers: asked after a failure, as many leave a device as it was, while after others
            it answers nothing but the same error until the process ends.
    """

    @wraps(compute)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return compute(*args, **kwargs)
        except (MemoryError, RuntimeError) as error:
            if _is_of_memory(error):
                fault: Exception = DeviceMemoryError(describe_error(error))
            elif not still_answers():
                fault = DeviceLostError(describe_error(error))
            else:
                raise
        raise fault  # here, as the first error's traceback holds all that the batch left in memory

    return wrapped


def _is_of_memory(error: Exception) -> bool:
    signs = _NO_MEMORY + _NO_WORKSPACE
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)

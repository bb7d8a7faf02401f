"""A device's faults told apart: too little memory, lost for good, or anything else."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from inference.errors import DeviceLostError, DeviceMemoryError
from inference.staging import why

P = ParamSpec("P")
R = TypeVar("R")

# What torch's allocators for GPU and CPU say, and OpenVINO's; all raise a RuntimeError.
_NO_MEMORY = ("out of memory", "can't allocate memory", "bad_alloc", "bad allocation")
# After one of these a CUDA context answers nothing but the same error until its process ends.
_LOST = ("CUDA error:", "cuDNN error:", "CUBLAS_STATUS_", "device-side assert")


def told_apart(compute: Callable[P, R]) -> Callable[P, R]:
    """Wrap a computation: raises DeviceMemoryError or DeviceLostError where those happened."""

    @wraps(compute)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return compute(*args, **kwargs)
        except MemoryError as error:
            raise DeviceMemoryError(why(error)) from error
        except RuntimeError as error:
            if any(sign in str(error) for sign in _NO_MEMORY):
                raise DeviceMemoryError(why(error)) from error
            if any(sign in str(error) for sign in _LOST):
                raise DeviceLostError(why(error)) from error
            raise

    return wrapped

"""A device's faults told apart: too little memory, lost for good, or anything else."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from inference.errors import DeviceLostError, DeviceMemoryError

P = ParamSpec("P")
R = TypeVar("R")

# What torch's allocator for the CPU says; it raises a plain RuntimeError.
_NO_CPU_MEMORY = "can't allocate memory"
# After one of these a CUDA context answers nothing but the same error until its process ends.
_LOST = ("CUDA error:", "cuDNN error:", "CUBLAS_STATUS_", "device-side assert")


def told_apart(encode: Callable[P, R]) -> Callable[P, R]:
    """Wrap an encode: raises DeviceMemoryError or DeviceLostError where those are what happened."""

    @wraps(encode)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return encode(*args, **kwargs)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise DeviceMemoryError(_first_line(error)) from error
        except RuntimeError as error:
            if _NO_CPU_MEMORY in str(error):
                raise DeviceMemoryError(_first_line(error)) from error
            if any(sign in str(error) for sign in _LOST):
                raise DeviceLostError(_first_line(error)) from error
            raise

    return wrapped


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__

"""The devices of torch: checks, supported precisions, and memory."""

from __future__ import annotations

import torch

from backends.model import GpuMemory, Precision
from errors import ConfigurationError, DeviceUnavailableError, describe_error


def check(name: str) -> None:
    """Check that a device exists, and that this build of torch runs on it.

    Raises:
        DeviceUnavailableError: the device is missing, or this build of torch does not run on it.
    """
    device = torch.device(name)
    if device.type != "cuda":
        return
    if torch.version.cuda is None:
        raise DeviceUnavailableError(
            f"ENABLE_CUDA is on, but torch {torch.__version__} is built without CUDA: install it "
            "from pip's own index, without TORCH_INDEX_URL, or unset ENABLE_CUDA"
        )
    if (device.index or 0) >= torch.cuda.device_count():
        raise DeviceUnavailableError(
            f"ENABLE_CUDA is on, but {name} is not there: torch {torch.__version__} for CUDA "
            f"{torch.version.cuda} sees {torch.cuda.device_count()} GPUs. Give the container a "
            "GPU (and the machine a driver for this CUDA), or unset ENABLE_CUDA"
        )
    _try(device)
    # By default cuDNN computes float32 convolutions in TF32, for some batch sizes.
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]


def answers(name: str) -> bool:
    """Return whether a device still computes; after some errors only a new process can use it."""
    device = torch.device(name)
    if device.type != "cuda":
        return True
    try:
        _compute_something(device)
    except torch.OutOfMemoryError:
        return True
    except RuntimeError:
        return False
    return True


def _compute_something(device: torch.device) -> None:
    torch.ones(1, device=device).add(1).item()


def _try(device: torch.device) -> None:
    about = str(device)
    try:
        major, minor = torch.cuda.get_device_capability(device)
        name = torch.cuda.get_device_name(device)
        about = f"{device}, a {name} (compute capability {major}.{minor}),"
        _compute_something(device)
    except RuntimeError as error:
        raise DeviceUnavailableError(
            f"{about} cannot run torch {torch.__version__}, which is built for "
            f"{', '.join(torch.cuda.get_arch_list())}: {describe_error(error)}"
        ) from error


def gpus(wanted: str) -> list[str]:
    """Return the names of the GPUs in CUDA_CORE: one, several separated by commas, or `all`.

    Raises:
        ConfigurationError: CUDA_CORE is invalid.
        DeviceUnavailableError: CUDA_CORE is `all`, but there is no GPU.
    """
    if wanted != "all":
        return list(dict.fromkeys(_gpu(name.strip(), wanted) for name in wanted.split(",")))
    check("cuda:0")
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


def _gpu(name: str, wanted: str) -> str:
    index = "0" if name == "cuda" else name.removeprefix("cuda:")
    if not (index.isascii() and index.isdecimal()):
        raise ConfigurationError(
            f"CUDA_CORE={wanted!r}: expected a GPU such as cuda:0, several such as cuda:0,cuda:1, "
            "or all"
        )
    return f"cuda:{int(index)}"


def precisions(device: str) -> tuple[Precision, ...]:
    """Return the precisions for which a device has instructions."""
    if torch.device(device).type == "cuda":
        # GPUs older than the Ampere generation only emulate bfloat16.
        is_new = torch.cuda.get_device_capability(device) >= (8, 0)
        return ("float32", "float16", "bfloat16") if is_new else ("float32", "float16")
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return ("float32", "bfloat16") if fast else ("float32",)


def describe(device: str) -> str:
    """Return a device's name, as it is written in a sentence."""
    return "this CPU" if device == "cpu" else f"{device}, a {torch.cuda.get_device_name(device)},"


def gpu_memory(device: str) -> GpuMemory | None:
    """Return the current memory of a GPU; None for another device."""
    if torch.device(device).type != "cuda":
        return None
    return GpuMemory(
        allocated=torch.cuda.memory_allocated(device),
        reserved=torch.cuda.memory_reserved(device),
        total=torch.cuda.get_device_properties(device).total_memory,
    )

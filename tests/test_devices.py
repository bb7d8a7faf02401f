"""Devices that fail, and what a device asks of the families; no GPU is needed for it."""

import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from backends.folder import detect
from backends.model import ModelOptions
from backends.replicas import load_replica
from backends.runtimes.torch import devices as torch_devices
from backends.runtimes.torch import runtime as torch_runtime
from backends.runtimes.torch.runtime import TorchNetwork
from errors import DeviceLostError, DeviceMemoryError
from tests.golden_cases import EVERY_LAYOUT, GOLDEN, embed_images, embed_texts

PIXELS = np.zeros((1, 3, 2, 2), np.uint8)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), DeviceMemoryError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), DeviceMemoryError),
        (RuntimeError("Exception from src/inference: std::bad_alloc"), DeviceMemoryError),
        (MemoryError(), DeviceMemoryError),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), DeviceMemoryError),
        (RuntimeError("CUDA error: invalid configuration argument"), RuntimeError),
        (RuntimeError("shapes cannot be multiplied"), RuntimeError),
    ],
)
def test_a_devices_errors_are_translated(failure: Exception, kind: type[Exception]) -> None:
    def fail(_: torch.Tensor) -> torch.Tensor:
        raise failure

    with pytest.raises(kind) as raised:
        TorchNetwork(fail, "cpu")(PIXELS)
    assert type(raised.value) is kind


def test_a_device_that_answers_nothing_after_a_fault_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(_: object) -> object:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch_runtime, "answers", lambda device: torch_devices.answers("cuda:0"))
    monkeypatch.setattr(torch_devices, "_compute_something", gone)
    network = TorchNetwork(gone, "cpu")  # type: ignore[arg-type]

    with pytest.raises(DeviceLostError, match="illegal memory access"):
        network(PIXELS)


def test_a_batch_that_found_no_memory_leaves_nothing_in_it() -> None:
    left: list[weakref.ref[torch.Tensor]] = []

    def fail(pixels: torch.Tensor) -> torch.Tensor:
        activations = pixels.float() + 1
        left.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(DeviceMemoryError) as raised:
        TorchNetwork(fail, "cpu")(PIXELS)

    assert raised.value.__context__ is None
    assert left[0]() is None


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """A device that computes nothing, but minds where its inputs are: torch's `meta`."""

    def bring(tensor: torch.Tensor) -> torch.Tensor:
        assert tensor.device.type == "meta"
        return torch.zeros(tensor.shape)

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: bring(tensor))
    # Some libraries look whether a mask is all ones; it has no values here.
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda tensor: not tensor.is_meta)
    for name, answer in (("check", None), ("describe", "meta"), ("precisions", ("float32",))):
        monkeypatch.setattr(torch_devices, name, lambda _, answer=answer: answer)
    return "meta"


@EVERY_LAYOUT
def test_every_input_reaches_the_models_device(layout: str, elsewhere: str) -> None:
    """As on a GPU: one array that stays on the CPU would end in an error there."""
    model = load_replica(detect(GOLDEN / layout), ModelOptions(device=elsewhere))
    image = Image.new("RGB", (64, 48))

    assert embed_texts(model, ["a", "b c"]).shape == (2, model.info.dimensions)
    assert embed_images(model, [image, image]).shape == (2, model.info.dimensions)


def test_memory_that_really_runs_out_is_reported_so() -> None:
    network = TorchNetwork(lambda _: torch.empty(1 << 50), "cpu")

    with pytest.raises(DeviceMemoryError, match="allocate"):
        network(PIXELS)

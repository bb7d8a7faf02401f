"""Devices that fail, and what a device asks of the families; no GPU is needed for it."""

import weakref
from collections import UserDict
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from backends.folder import detect
from backends.inputs.pixels import to_pixels
from backends.load import load_backend
from backends.model import BackendOptions, Embeddings
from backends.torch import devices as torch_devices
from backends.torch import runtime as torch_runtime
from backends.torch.runtime import TorchNetwork
from backends.two_towers import Network, TwoTowerBackend
from errors import DeviceLostError, DeviceMemoryError
from tests.golden_cases import GOLDEN, LAYOUTS, golden_backend


class Ones:
    """A text tower of its own kind."""

    truncated_texts = 0

    def __call__(self, texts: Sequence[str]) -> Embeddings:
        return np.ones((len(texts), 3), np.float32)


def backend_with(images: Network) -> TwoTowerBackend:
    return TwoTowerBackend(golden_backend("openai", "trained").info, to_pixels, images, Ones())


PIXELS = np.zeros((3, 2, 2), np.uint8)


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

    backend = backend_with(TorchNetwork(fail, "cpu"))

    assert backend.encode_text(["a"]).tolist() == [[1, 1, 1]]
    with pytest.raises(kind) as raised:
        backend.encode_image([PIXELS])
    assert type(raised.value) is kind


def test_a_device_that_answers_nothing_after_a_fault_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(_: object) -> object:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch_runtime, "answers", lambda device: torch_devices.answers("cuda:0"))
    monkeypatch.setattr(torch_devices, "_compute_something", gone)
    backend = backend_with(TorchNetwork(gone, "cpu"))  # type: ignore[arg-type]

    with pytest.raises(DeviceLostError, match="illegal memory access"):
        backend.encode_image([PIXELS])


def test_a_batch_that_found_no_memory_leaves_nothing_in_it() -> None:
    left: list[weakref.ref[torch.Tensor]] = []

    def fail(pixels: torch.Tensor) -> torch.Tensor:
        activations = pixels.float() + 1
        left.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(DeviceMemoryError) as raised:
        TorchNetwork(fail, "cpu")(PIXELS[None])

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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_input_reaches_the_models_device(layout: str, elsewhere: str) -> None:
    """As on a GPU: one array that stays on the CPU would end in an error there."""
    backend = load_backend(detect(GOLDEN / layout), BackendOptions(device=elsewhere))
    pixels = backend.preprocess(Image.new("RGB", (64, 48)))

    assert backend.encode_text(["a", "b c"]).shape == (2, backend.info.dimensions)
    assert backend.encode_image([pixels, pixels]).shape == (2, backend.info.dimensions)


def test_features_move_in_whatever_mapping_they_come(elsewhere: str) -> None:
    moved: list[str] = []

    def network(features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        moved.extend(str(tensor.device) for tensor in features.values())
        return features["input_ids"]

    ids, mask = torch.ones(2, 3), torch.ones(2, 3)
    TorchNetwork(network, elsewhere)(UserDict(input_ids=ids, attention_mask=mask))

    assert moved == [elsewhere, elsewhere]


def test_memory_that_really_runs_out_is_told_so() -> None:
    backend = backend_with(TorchNetwork(lambda _: torch.empty(1 << 50), "cpu"))

    with pytest.raises(DeviceMemoryError, match="allocate"):
        backend.encode_image([PIXELS])

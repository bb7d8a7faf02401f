"""Several copies of the model behind one queue, as CUDA_CORE=all makes them."""

import asyncio

import numpy as np
import pytest
import torch

from backends.embed import embed
from backends.folder import detect
from backends.model import GpuMemory, Modality, ModelOptions, Precision
from backends.replicas import load_replicas
from backends.runtimes.torch import devices as torch_devices
from config import Settings
from errors import ConfigurationError, DeviceUnavailableError
from tests.fakes import FakeModel, vector_of, vectorize
from tests.golden_cases import GOLDEN
from vectorizer import Vectorizer

GIGABYTE = 10**9


@pytest.mark.anyio
async def test_replicas_compute_side_by_side_and_each_answer_finds_its_caller() -> None:
    replicas = [FakeModel(), FakeModel()]
    for replica in replicas:
        replica.gate.clear()
    vectorizer = Vectorizer([replica.model for replica in replicas], Settings(max_batch_size=2))
    texts = [f"text {number}" for number in range(8)]
    answers = asyncio.gather(*(vectorize(vectorizer, [text], []) for text in texts))
    for replica in replicas:  # both at the same time
        assert await asyncio.to_thread(replica.busy.wait, 10)
    for replica in replicas:
        replica.gate.set()

    for text, answer in zip(texts, await answers, strict=True):
        np.testing.assert_array_equal(answer.texts[0], vector_of(text))
    assert sum(map(len, (batch for one in replicas for batch in one.text_batches))) == len(texts)
    await vectorizer.aclose()


def test_their_devices_and_their_memory_are_reported_together() -> None:
    replicas = [FakeModel(), FakeModel()]
    for count, replica in enumerate(replicas, start=1):
        replica.memory = GpuMemory(allocated=count, reserved=2 * count, total=GIGABYTE)
    vectorizer = Vectorizer([replica.model for replica in replicas], Settings())

    assert vectorizer.info.device == "cpu, cpu"
    assert vectorizer.gpu_memory == GpuMemory(3, 6, 2 * GIGABYTE)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("cuda:1", ["cuda:1"]),
        ("cuda", ["cuda:0"]),
        ("cuda:0, cuda:2", ["cuda:0", "cuda:2"]),
        ("0,1", ["cuda:0", "cuda:1"]),
        ("all", ["cuda:0", "cuda:1", "cuda:2"]),
    ],
)
def test_the_gpus_that_are_named(
    wanted: str, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch_devices, "_try", lambda _: None)

    assert torch_devices.gpus(wanted) == found


@pytest.mark.parametrize("wanted", ["cpu", "cuda:x", "cuda:0,", "cuda:-1", "all,cuda:0"])
def test_what_names_no_gpu_is_refused(wanted: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a GPU such as cuda:0, several such"):
        torch_devices.gpus(wanted)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("wanted", ["all", "cuda:0", "cuda:0,cuda:1"])
def test_a_gpu_that_is_not_there_ends_the_start_with_a_sentence(wanted: str) -> None:
    sentence = "cuda:0 is not there: torch .* sees 0 GPUs|is built without CUDA: install it"
    with pytest.raises(DeviceUnavailableError, match=sentence):
        load_replicas(detect(GOLDEN / "openai"), ModelOptions(), wanted)


def test_a_torch_without_cuda_is_reported_from_a_machine_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)

    with pytest.raises(DeviceUnavailableError, match="is built without CUDA: install it"):
        torch_devices.check("cuda:0")


@pytest.mark.anyio
async def test_every_replica_is_warmed_up() -> None:
    replicas = [FakeModel() for _ in range(4)]
    vectorizer = Vectorizer([replica.model for replica in replicas], Settings())
    await vectorizer.warm_up()

    assert [replica.image_batches for replica in replicas] == [[1, 2]] * 4
    assert [[len(b) for b in replica.text_batches] for replica in replicas] == [[1, 2]] * 4
    assert (await vectorize(vectorizer, ["a"], [])).texts[0].shape == (4,)
    await vectorizer.aclose()


def test_a_gpu_that_cannot_run_this_torch_ends_the_start_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_kernel(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: no kernel image is available for execution\nCompile with")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (3, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla K40")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    monkeypatch.setattr(torch, "ones", no_kernel)

    with pytest.raises(DeviceUnavailableError) as raised:
        torch_devices.check("cuda:0")
    assert str(raised.value) == (
        "cuda:0, a Tesla K40 (compute capability 3.5), cannot run torch "
        f"{torch.__version__}, which is built for sm_80, sm_90: "
        "CUDA error: no kernel image is available for execution"
    )


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "layout", ["openai", "openclip", "siglip", "sentence_transformers_multilingual"]
)
def test_half_precision_gives_nearly_the_same_vectors(
    layout: str, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU; this machine may emulate the precision."""
    every = ("float32", "bfloat16", "float16")
    monkeypatch.setattr(torch_devices, "precisions", lambda _: every)
    folder = detect(GOLDEN / layout)
    exact, rough = (
        load_replicas(folder, ModelOptions(precision=one))[0] for one in ("float32", precision)
    )
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    from PIL import Image

    image = Image.fromarray(pixels)
    contents: dict[Modality, object] = {"text": "a cat", "image": image}
    pairs = [
        tuple(embed(model.towers[modality], [content])[0] for model in (exact, rough))
        for modality, content in contents.items()
    ]

    assert rough.info.precision == precision
    for one, other in pairs:
        cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert other.dtype == np.float32
        assert cosine > 0.999
        assert not np.array_equal(one, other)

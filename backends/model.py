"""The seam between the service and a model family: what every backend offers, and nothing else.

It imports no model library, so that everything above can name these types for free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

Embeddings: TypeAlias = npt.NDArray[np.float32]  # [n, dimensions]
TextMode: TypeAlias = Literal["trained", "reference"]
Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]
Runtime: TypeAlias = Literal["openvino", "torch"]


@dataclass(frozen=True)
class BackendOptions:
    """How a backend is to be loaded.

    Attributes:
        device: a torch device, such as `cpu` or `cuda:0`.
        text_mode: `trained` gives texts as the model learnt them, `reference` as the reference
            container makes them.
        trust_remote_code: whether the model folder may run Python code of its own.
        precision: to compute in; `load_backend` takes float32 where the device would imitate it.
        runtime: what computes; OpenVINO runs on the CPU only.
        cache_dir: where models are kept that were converted for the runtime.
        cores: how many the computation may use; None for all.
    """

    device: str = "cpu"
    text_mode: TextMode = "trained"
    trust_remote_code: bool = False
    precision: Precision = "float32"
    runtime: Runtime = "torch"
    cache_dir: Path | None = None
    cores: int | None = None


@dataclass(frozen=True)
class ModelInfo:
    """What is loaded, for the log and for `GET /meta`.

    Attributes:
        family: the model family, such as `SigLIP 2`.
        dimensions: length of every vector.
        parameters: number of weights in memory.
        runtime: what computes.
        device: where they are.
        precision: the type they are computed in.
        text_mode: as in `BackendOptions`.
        image_px: shorter side of the image that it looks at.
        is_demo: whether it is the small model that this project ships to be tried.
        config: the body that the reference's `GET /meta` has for the family.
    """

    family: str
    dimensions: int
    parameters: int
    runtime: Runtime
    device: str
    precision: Precision
    text_mode: TextMode
    image_px: int
    is_demo: bool
    config: Mapping[str, object]


@dataclass(frozen=True)
class GpuMemory:
    """Memory of a GPU, or of several together, in bytes.

    Attributes:
        allocated: that tensors of this process take.
        reserved: that this process keeps for tensors.
        total: that the GPU has.
    """

    allocated: int
    reserved: int
    total: int


@dataclass(frozen=True)
class BackendStats:
    """What a backend has counted, and what it takes.

    Attributes:
        truncated_texts: texts that were longer than the model reads, since the start.
        gpu_memory: None without a GPU.
    """

    truncated_texts: int
    gpu_memory: GpuMemory | None

    @classmethod
    def total(cls, replicas: Sequence[BackendStats]) -> BackendStats:
        """Add up what the replicas of a model have counted and take."""
        gpus = [replica.gpu_memory for replica in replicas if replica.gpu_memory]
        return cls(
            truncated_texts=sum(replica.truncated_texts for replica in replicas),
            gpu_memory=GpuMemory(
                allocated=sum(gpu.allocated for gpu in gpus),
                reserved=sum(gpu.reserved for gpu in gpus),
                total=sum(gpu.total for gpu in gpus),
            )
            if gpus
            else None,
        )


class EmbeddingBackend(Protocol):
    """A loaded model.

    `encode_image` and `encode_text` each run in one thread of their own, side by side; `preprocess`
    runs in many. Each encode keeps length and order, and is batch-invariant: an input's vector does
    not depend on its batch mates (to 1e-5).
    """

    @property
    def info(self) -> ModelInfo:
        """What is loaded."""
        ...

    @property
    def stats(self) -> BackendStats:
        """What was counted, and what memory is in use, now."""
        ...

    def preprocess(self, image: Image) -> Any:
        """Bring a decoded image, in its own mode, to the form that `encode_image` takes."""
        ...

    def encode_image(self, batch: Sequence[Any]) -> Embeddings:
        """Embed preprocessed images: [n, dimensions] float32."""
        ...

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts; one that is too long for the model is cut: [n, dimensions] float32."""
        ...

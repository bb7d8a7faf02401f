"""The shape that all families share: one tower for images, one for texts, on one device.

A family's module says how its towers are loaded and fed; this one runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from PIL.Image import Image
from torch import Tensor, nn

from inference.backends.base import (
    BackendOptions,
    BackendStats,
    Embeddings,
    GpuMemory,
    ModelInfo,
)
from inference.backends.faults import told_apart
from inference.backends.tokens import Collate, Tokenizer
from inference.errors import DeviceUnavailableError
from inference.model_folder import ModelFolder

ImageTower: TypeAlias = Callable[[Tensor], Tensor]  # [n, 3, H, W] uint8 -> [n, dim]


class TextTower(Protocol):
    """Embeds texts, and counts those that it cut."""

    @property
    def truncated_texts(self) -> int:
        """How many texts were longer than it reads."""
        ...

    def __call__(self, texts: Sequence[str], /) -> Tensor:
        """Embed texts: [n, dim]."""
        ...


def unit_length(vectors: Tensor) -> Tensor:
    """Scale each vector to length 1."""
    return nn.functional.normalize(vectors, dim=-1)


def as_they_are(vectors: Tensor) -> Tensor:
    """Leave vectors at their own length, for families that do not normalise."""
    return vectors


def checked_device(name: str) -> torch.device:
    """Return the device of that name.

    Raises:
        DeviceUnavailableError: it is not there, or this build of torch cannot use it.
    """
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceUnavailableError(
            f"ENABLE_CUDA is on, but {name} is not there: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} GPUs. Give the container a GPU, or unset ENABLE_CUDA"
        )
    return device


@dataclass(frozen=True)
class TokenTower:
    """A text tower: tokenise, collate, run the network over ids, put the rows back in order.

    Attributes:
        network: ids [n, length] -> [n, dim], on `device`.
    """

    tokenize: Tokenizer
    collate: Collate
    network: Callable[[Tensor], Tensor]
    device: torch.device

    @property
    def truncated_texts(self) -> int:
        """How many texts were longer than it reads."""
        return self.tokenize.truncated_texts

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embed texts: [n, dim]."""
        batches = self.collate(self.tokenize(texts))
        vectors = torch.cat([self.network(ids.to(self.device)) for _, ids in batches])
        rows = torch.tensor([row for rows, _ in batches for row in rows])
        return vectors[rows.argsort().to(self.device)]


def describe(
    folder: ModelFolder,
    options: BackendOptions,
    family: str,
    dimensions: int,
    image_px: int,
    networks: Sequence[nn.Module],
    config: Mapping[str, object],
) -> ModelInfo:
    """Describe what was loaded; networks that share weights count them once."""
    weights = {id(p): p.numel() for network in networks for p in network.parameters()}
    return ModelInfo(
        family=family,
        dimensions=dimensions,
        parameters=sum(weights.values()),
        device=options.device,
        precision="float32",
        text_mode=options.text_mode,
        image_px=image_px,
        is_demo=folder.is_demo,
        config=config,
    )


class TwoTowerBackend:
    """An `EmbeddingBackend` made of two towers."""

    def __init__(
        self,
        info: ModelInfo,
        preprocess: Callable[[Image], Tensor],
        image_tower: ImageTower,
        text_tower: TextTower,
    ) -> None:
        self.info = info
        self._preprocess = preprocess
        self._device = torch.device(info.device)
        self._image_tower = image_tower
        self._text_tower = text_tower
        self._cores = torch.get_num_threads()

    @property
    def stats(self) -> BackendStats:
        """What was counted, and what memory is in use, now."""
        return BackendStats(self._text_tower.truncated_texts, _gpu_memory(self._device))

    # torch counts its threads for each thread that calls it. The pool that preprocesses is parallel
    # by itself; a forward pass has the machine to itself.

    def preprocess(self, image: Image) -> Tensor:
        """Bring a decoded image to the size of the tower: [3, H, W] uint8."""
        torch.set_num_threads(1)
        return self._preprocess(image)

    @told_apart
    @torch.inference_mode()
    def encode_image(self, batch: Sequence[Tensor]) -> Embeddings:
        """Embed preprocessed images, each [3, H, W] uint8: [n, dimensions] float32."""
        torch.set_num_threads(self._cores)
        return _on_cpu(self._image_tower(torch.stack(list(batch)).to(self._device)))

    @told_apart
    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts: [n, dimensions] float32."""
        torch.set_num_threads(self._cores)
        return _on_cpu(self._text_tower(texts))


def _gpu_memory(device: torch.device) -> GpuMemory | None:
    if device.type != "cuda":
        return None
    return GpuMemory(
        allocated=torch.cuda.memory_allocated(device),
        reserved=torch.cuda.memory_reserved(device),
        total=torch.cuda.get_device_properties(device).total_memory,
    )


def _on_cpu(vectors: Tensor) -> Embeddings:
    embeddings: Embeddings = vectors.float().cpu().numpy()
    return embeddings

"""The shape that all families share: one network for images, one for texts, whatever runs them.

A family's module says how its towers are loaded and fed, a runtime's how a network is computed;
this one puts them together. It imports neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from backends.inputs.resampling import Pixels
from backends.inputs.tokens import Padding, Tokenize
from backends.model import BackendStats, Embeddings, GpuMemory, ModelInfo

# Arrays of n rows in, [n, dim] float32 out. Each is called by one thread at a time.
Network: TypeAlias = Callable[..., Embeddings]


class TextTower(Protocol):
    """Embeds texts, and counts those that it cut."""

    @property
    def truncated_texts(self) -> int:
        """How many texts were longer than it reads."""
        ...

    def __call__(self, texts: Sequence[str], /) -> Embeddings:
        """Embed texts: [n, dim]."""
        ...


@dataclass(frozen=True)
class TokenTower:
    """A text tower: tokenise, pad, run the network over ids, put the rows back in order.

    Attributes:
        network: ids [n, length] int64, and a mask if the padding makes one -> [n, dim].
    """

    tokenize: Tokenize
    padding: Padding
    network: Network

    @property
    def truncated_texts(self) -> int:
        """How many texts were longer than it reads."""
        return self.tokenize.truncated_texts

    def __call__(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts: [n, dim]."""
        batches = self.padding(self.tokenize(texts))
        vectors = np.concatenate([self.network(*batch.arrays) for batch in batches])
        return vectors[np.argsort([row for batch in batches for row in batch.rows])]


def no_gpu() -> None:
    """Tell that there is no memory of a GPU."""


class TwoTowerBackend:
    """An `EmbeddingBackend` made of two towers.

    Args:
        info: what is loaded.
        preprocess: brings a decoded image to [3, H, W] uint8.
        images: the network over [n, 3, H, W] uint8.
        texts: the text tower.
        gpu_memory: asks for the memory of the GPU, where there is one.
    """

    def __init__(
        self,
        info: ModelInfo,
        preprocess: Callable[[Image], Pixels],
        images: Network,
        texts: TextTower,
        gpu_memory: Callable[[], GpuMemory | None] = no_gpu,
    ) -> None:
        self.info = info
        self.preprocess = preprocess
        self._images = images
        self._texts = texts
        self._gpu_memory = gpu_memory

    @property
    def stats(self) -> BackendStats:
        """What was counted, and what memory is in use, now."""
        return BackendStats(self._texts.truncated_texts, self._gpu_memory())

    def encode_image(self, batch: Sequence[npt.NDArray[Any]]) -> Embeddings:
        """Embed preprocessed images, each [3, H, W] uint8: [n, dimensions] float32."""
        return self._images(np.stack(batch))

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        """Embed texts: [n, dimensions] float32."""
        return self._texts(texts)

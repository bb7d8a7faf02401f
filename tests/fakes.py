"""A backend whose vectors are functions of their inputs, so that any mix-up shows."""

import hashlib
import threading
from collections.abc import Sequence

import numpy as np
from PIL import Image

from backends.model import BackendStats, Embeddings, ModelInfo

DIMENSIONS = 4


def vector_of(content: str | bytes) -> np.ndarray:
    """Return the vector that the fake gives: one that depends on every byte of the content."""
    raw = content.encode() if isinstance(content, str) else content
    digest = hashlib.sha256(raw).digest()[: 4 * DIMENSIONS]
    return np.frombuffer(digest, np.uint32).astype(np.float32) / 2**32


class FakeBackend:
    """Implements `EmbeddingBackend`; remembers its batches, and can be held up by a gate."""

    def __init__(self) -> None:
        self.info = ModelInfo(
            family="fake",
            dimensions=DIMENSIONS,
            parameters=0,
            runtime="torch",
            device="cpu",
            precision="float32",
            text_mode="trained",
            image_px=8,
            is_demo=False,
            config={"model_type": "fake"},
        )
        self.stats = BackendStats(truncated_texts=0, gpu_memory=None)
        self.text_batches: list[list[str]] = []
        self.image_batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.busy = threading.Event()  # set when the first batch comes

    def preprocess(self, image: Image.Image) -> bytes:
        return image.convert("RGB").tobytes()

    def encode_image(self, batch: Sequence[bytes]) -> Embeddings:
        self._pass_gate()
        self.image_batches.append(len(batch))
        return np.stack([vector_of(pixels) for pixels in batch])

    def encode_text(self, texts: Sequence[str]) -> Embeddings:
        self._pass_gate()
        self.text_batches.append(list(texts))
        return np.stack([vector_of(text) for text in texts])

    def _pass_gate(self) -> None:
        self.busy.set()
        if not self.gate.wait(timeout=10):
            raise TimeoutError("the test never opened the gate")

"""A fake model whose vectors are functions of their inputs, so that any mix-up shows."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from backends.model import (
    Arrays,
    Chunks,
    EmbeddingResult,
    EncodeParams,
    GpuMemory,
    Modality,
    Model,
    ModelInfo,
    ModelInput,
    Rows,
    Tower,
)
from errors import DeviceMemoryError, InvalidInputError
from inference.request import EmbedInput
from vectorizer import Vectorizer

DIMENSIONS = 4
TOO_LONG = 1000  # characters of a text that is told as cut
UNKNOWN = "???"  # a text whose vector is zeros


@dataclass
class Clock:
    """A clock that a test sets."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


class Vectors(NamedTuple):
    texts: list[np.ndarray]
    images: list[np.ndarray]


async def vectorize(
    vectorizer: Vectorizer, texts: Sequence[str] = (), images: Sequence[str] = ()
) -> Vectors:
    """Embed texts and images as `POST /vectorize` does."""
    inputs = [EmbedInput(f"texts[{i}]", "text", text) for i, text in enumerate(texts)]
    inputs += [EmbedInput(f"images[{i}]", "image", image) for i, image in enumerate(images)]
    vectors = [embedded.vector for embedded in await vectorizer.embed(inputs)]
    return Vectors(vectors[: len(texts)], vectors[len(texts) :])


def vector_of(content: str | bytes) -> np.ndarray:
    """Return the vector that the fake gives: one that depends on every byte of the content."""
    if content == UNKNOWN:
        return np.zeros(DIMENSIONS, np.float32)
    raw = content.encode() if isinstance(content, str) else content
    digest = hashlib.sha256(raw).digest()[: 4 * DIMENSIONS]
    return np.frombuffer(digest, np.uint32).astype(np.float32) / 2**32


class AsItIs:
    """An input processor that returns its input: one chunk, one bucket, a cost of 1."""

    reading = ""
    is_chunked = False

    def resolve(self, params: EncodeParams) -> EncodeParams:
        return EncodeParams()

    def estimate(self, content: Any) -> int:
        return 1

    def split(self, content: Any, params: EncodeParams) -> Chunks:
        return Chunks([content])

    def prepare(self, part: Any, params: EncodeParams) -> ModelInput:
        truncated = len(part) == TOO_LONG
        return ModelInput((np.array(part, object),), bucket=0, cost=1, truncated=truncated)

    def collate(self, items: Sequence[ModelInput]) -> Arrays:
        return (np.array([item.arrays[0].item() for item in items], object),)

    def limit_ids(self, rows: int) -> None:
        pass

    def decode(self, ids: Sequence[int]) -> str:
        if 0 in ids:
            raise InvalidInputError("0 is no letter", "body")
        return "".join(map(chr, ids))

    def join(self, parts: Sequence[EmbeddingResult], divisor: int) -> EmbeddingResult:
        return parts[0]


class Images(AsItIs):
    """The same for images, by a function."""

    def __init__(self, preprocess: Callable[[Image.Image], bytes]) -> None:
        self._preprocess = preprocess

    def prepare(self, part: Image.Image, params: EncodeParams) -> ModelInput:
        return super().prepare(self._preprocess(part), params)


class FakeModel:
    """A model of two towers; remembers its batches, and can be held up by a gate."""

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
            name="fake/model",
            revision="c0ffee",
        )
        self.memory: GpuMemory | None = None
        self.text_batches: list[list[str]] = []
        self.image_batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.busy = threading.Event()  # set when the first batch comes

    @property
    def model(self) -> Model:
        towers: dict[Modality, Tower] = {
            "text": Tower(AsItIs(), lambda texts: self.encode_text(texts.tolist())),
            "image": Tower(
                Images(self.preprocess), lambda images: self.encode_image(images.tolist())
            ),
        }
        return Model(self.info, towers, lambda: self.memory)

    def preprocess(self, image: Image.Image) -> bytes:
        return image.convert("RGB").tobytes()

    def encode_image(self, batch: Sequence[bytes]) -> Rows:
        self._pass_gate()
        self.image_batches.append(len(batch))
        return np.stack([self.vector_of(pixels) for pixels in batch])

    def encode_text(self, texts: Sequence[str]) -> Rows:
        self._pass_gate()
        self.text_batches.append(list(texts))
        return np.stack([self.vector_of(text) for text in texts])

    def vector_of(self, content: str | bytes) -> np.ndarray:
        return vector_of(content)

    def _pass_gate(self) -> None:
        self.busy.set()
        if not self.gate.wait(timeout=10):
            raise TimeoutError("the test never opened the gate")


class SmallDevice(FakeModel):
    """A model on a device whose memory holds two texts."""

    def encode_text(self, texts: Sequence[str]) -> Rows:
        if len(texts) > 2:
            raise DeviceMemoryError("too much")
        return super().encode_text(texts)

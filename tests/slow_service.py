"""The service with a model that takes its time: `python -m tests.slow_service`.

A real process with everything of the real one but the model, whose capacity is known: 50 images and
500 texts a second, whatever the machine.
"""

import time
from collections.abc import Sequence

from app import serve
from backends.model import Rows
from config import Settings, read
from machine import freeze_gc
from tests.fakes import FakeModel
from vectorizer import Resources, Vectorizer

IMAGE_S = 0.02
TEXT_S = 0.002


class SlowBackend(FakeModel):
    """Takes a fixed time for every item."""

    def encode_image(self, batch: Sequence[bytes]) -> Rows:
        time.sleep(IMAGE_S * len(batch))
        return super().encode_image(batch)

    def encode_text(self, texts: Sequence[str]) -> Rows:
        time.sleep(TEXT_S * len(texts))
        return super().encode_text(texts)


async def make_vectorizer(settings: Settings, resources: Resources) -> Vectorizer:
    vectorizer = Vectorizer([SlowBackend().model], settings, resources=resources)
    freeze_gc()  # as the real one does once it is loaded
    return vectorizer


if __name__ == "__main__":
    serve(read(Settings), make_vectorizer)

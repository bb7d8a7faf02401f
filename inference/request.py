"""A request, independent of its wire format: its inputs, and its context."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from backends.model import EmbeddingResult, EncodeParams, Modality, Pair
from inference.timings import RequestTimes


@dataclass(frozen=True, slots=True)
class Postprocess:
    """The postprocessing of a vector, after the cache.

    Attributes:
        dimensions: number of first dimensions to keep, normalized to length 1; None for all.
        normalize: whether to normalize the vector to length 1.
    """

    dimensions: int | None = None
    normalize: bool = False

    def __call__(self, embedded: EmbeddingResult) -> EmbeddingResult:
        """Return a result with its vector truncated and normalized."""
        if not (self.normalize or self.dimensions):
            return embedded
        vector = embedded.vector[: self.dimensions]
        length = float(np.linalg.norm(vector))
        return embedded._replace(vector=vector / np.float32(length or 1.0))


# A text, the base64 of an image file, token ids of the model's vocabulary, or a pair.
Content: TypeAlias = str | Sequence[int] | Pair

# After so many seconds on the event loop a request gives way to others. A text is tokenized in
# 50 us, the base64 of a small image is decoded in 200 us, and a request may hold thousands of
# inputs. A request of a few inputs never gives way.
_SLICE_S = 0.002
_SLICE_ITEMS = 8

_AS_IT_IS, _AS_IT_COMES = EncodeParams(), Postprocess()


@dataclass(frozen=True, slots=True)
class EmbedInput:
    """An input of a request: a text or an image to embed, or a pair to score.

    Attributes:
        name: its name in errors, such as `images[1]`.
        modality: the modality, which selects the tower.
        content: the content.
        params: parameters of preprocessing and pooling.
        postprocess: the postprocessing of its vector.
        is_query: whether it is a query, which has priority.
    """

    name: str
    modality: Modality
    content: Content
    params: EncodeParams = _AS_IT_IS
    postprocess: Postprocess = _AS_IT_COMES
    is_query: bool = False


class RequestContext:
    """The context of a request: its priority, its timestamps, and its wait for items.

    Args:
        is_query: whether it is a query, whose items have priority.

    Attributes:
        due: for each fair queue, the due time of its last entry.
        pending: number of items that it waits for.
        times: timestamps of the request's stages.
    """

    __slots__ = ("_began_s", "_steps", "_wakeup", "due", "is_query", "pending", "times")

    def __init__(self, *, is_query: bool = False) -> None:
        self.is_query = is_query
        self.due: dict[object, int] = {}
        self.times = RequestTimes()
        self.pending = 0
        self._wakeup: asyncio.Future[None] | None = None
        self._began_s = self.times.arrived_s
        self._steps = 0

    async def give_way(self) -> None:
        """Give other requests a turn on the event loop, if this request has used it for long."""
        self._steps += 1
        if self._steps % _SLICE_ITEMS == 0 and time.perf_counter() - self._began_s > _SLICE_S:
            await asyncio.sleep(0)
            self._began_s = time.perf_counter()

    async def wait(self) -> None:
        """Wait until all pending items have ended, or one has failed.

        All items share one future, so that a batch wakes the request once.
        """
        self._wakeup = asyncio.get_running_loop().create_future()
        await self._wakeup

    def item_ended(self, *, has_failed: bool) -> None:
        """Count an item that has ended."""
        self.pending -= 1
        if self._wakeup and not self._wakeup.done() and (has_failed or self.pending == 0):
            self._wakeup.set_result(None)

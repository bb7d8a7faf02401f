"""A request, whatever its wire format: its inputs, and the context that travels with them."""

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
    """What is done to a vector behind the cache.

    Attributes:
        dimensions: keep so many of the first, and give what is left length 1; None for all.
        normalize: whether the vector shall have length 1.
    """

    dimensions: int | None = None
    normalize: bool = False

    def __call__(self, embedded: EmbeddingResult) -> EmbeddingResult:
        """Return the same answer, cut and scaled."""
        if not (self.normalize or self.dimensions):
            return embedded
        vector = embedded.vector[: self.dimensions]
        length = float(np.linalg.norm(vector))
        return embedded._replace(vector=vector / np.float32(length or 1.0))


# A text, the base64 of an image's file, a text as ids of the model's own vocabulary, or a pair.
Content: TypeAlias = str | Sequence[int] | Pair

# Of the event loop, that the inputs of a request take before others have their turn: a text is
# tokenized in 50 us, a small image's base64 decoded in 200, and a request may bring thousands.
_SLICE_S = 0.002

_AS_IT_IS, _AS_IT_COMES = EncodeParams(), Postprocess()


@dataclass(frozen=True, slots=True)
class EmbedInput:
    """A text or an image that shall become a vector, or a pair that shall become a score.

    Attributes:
        name: by which errors call it, such as `images[1]`.
        modality: which tower reads it.
        content: what it is.
        params: how it is read.
        postprocess: what is done to its vector.
        is_query: whether it goes before all that are none.
    """

    name: str
    modality: Modality
    content: Content
    params: EncodeParams = _AS_IT_IS
    postprocess: Postprocess = _AS_IT_COMES
    is_query: bool = False


class RequestContext:
    """One request while it is answered: its priority, its timestamps, and its wait for items.

    Args:
        is_query: whether its items go before those of requests that are no queries.

    Attributes:
        due: when its last entry is due, in each fair queue.
        times: when it passed each stage.
    """

    __slots__ = ("_pending", "_slice_ends_s", "_wakeup", "due", "is_query", "times")

    def __init__(self, *, is_query: bool = False) -> None:
        self.is_query = is_query
        self.due: dict[object, int] = {}
        self.times = RequestTimes()
        self._pending = 0
        self._wakeup: asyncio.Future[None] | None = None
        self._slice_ends_s = self.times.arrived_s + _SLICE_S

    async def give_way(self) -> None:
        """Let others have the event loop, if the request has had it for long."""
        if time.perf_counter() > self._slice_ends_s:
            await asyncio.sleep(0)
            self._slice_ends_s = time.perf_counter() + _SLICE_S

    async def wait(self, items: int) -> None:
        """Wait until so many items have ended, or one of them has failed.

        One future serves all items of a request, so that a batch wakes the request once.
        """
        self._pending = items
        self._wakeup = asyncio.get_running_loop().create_future()
        await self._wakeup

    def item_ended(self, *, has_failed: bool) -> None:
        """Take note of the end of an item that the request waits for."""
        self._pending -= 1
        if self._wakeup and not self._wakeup.done() and (has_failed or self._pending == 0):
            self._wakeup.set_result(None)

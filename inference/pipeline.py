"""One modality's way to its vectors: what is read is split, prepared, computed in batches, joined.

    Source -> split -> a part -> entrance -> prepare (a thread) -> lane (a batch) -> row
              join  <- rows <-- a part ...

Every part takes turns with those of other requests, twice: at the entrance to its preparation, and
in the lane. It knows no HTTP and no model library.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from backends.embed import compute
from backends.model import Embedded, Parts, Prepared, Shaping, Tower
from inference.admission import Claim
from inference.entrance import Entrance
from inference.fair_queue import Party
from inference.lane import Lane
from inference.request import Content
from inference.sources import Reader, Source
from inference.timings import Timings
from inference.vector_cache import VectorCache, value_of
from inference.worker_pool import WorkerPool

_BATCHES_AHEAD = 2  # are prepared, so that the model need not wait
_QUICK_IDS = 1_000  # of tokens: more are turned into their text in a thread
_OVERHEAD_BYTES = 300  # of a vector that is remembered: its key, and Python's objects around it


class Pipeline:
    """Embeds the inputs of one modality.

    Args:
        tower: of the model; of several replicas, any.
        reader: brings inputs in.
        pool: the threads that read and prepare.
        entrance: to them.
        lane: where batches are computed.
        part_bytes: how many bytes of vectors of parts are remembered.
    """

    def __init__(
        self,
        tower: Tower,
        reader: Reader,
        pool: WorkerPool,
        entrance: Entrance,
        lane: Lane,
        part_bytes: int,
    ) -> None:
        self.lane = lane
        self._tower = tower
        self._preparation = tower.preparation
        self._reader = reader
        self._pool = pool
        self._entrance = entrance
        self._parts: VectorCache[Embedded] = VectorCache(part_bytes, _nbytes)

    @property
    def is_table(self) -> bool:
        """Whether the tower is quicker than a queue."""
        return self._tower.is_table

    def reduce(self, shaping: Shaping) -> Shaping:
        """Return what the model reads of a shaping.

        Raises:
            InvalidInputError: it reads it, and knows no such value.
        """
        return self._preparation.reduce(shaping)

    def is_quick_to_read(self, content: Content) -> bool:
        """Tell whether reading it needs no thread."""
        if isinstance(content, str):
            return self._reader.is_quick_to_read(content)
        return len(content) <= _QUICK_IDS

    async def read(self, content: Content, timings: Timings) -> Source:
        """Read what a request holds.

        Raises:
            InvalidInputError: it is not what it should be.
            RequestTooLargeError: it is beyond the limits.
        """
        if self.is_quick_to_read(content):
            return self._read(content, timings)
        return await self._pool.run(self._read, content, timings)

    def _read(self, content: Content, timings: Timings) -> Source:
        if not isinstance(content, str):
            content = self._preparation.text_of(content)
        return self._reader.read(content, timings)

    def estimate(self, source: Source) -> int:
        """Return about what an input costs, in the lane's unit."""
        return self._preparation.estimate(source.content)

    async def embed_by_table(self, source: Source, shaping: Shaping, timings: Timings) -> Embedded:
        """Embed by a table: here and now, but for what is long.

        Raises:
            InvalidInputError: the input cannot be read.
        """
        if self._reader.is_quick_to_prepare(source.content):
            return self._look_up(source, shaping, timings)
        return await self._pool.run(self._look_up, source, shaping, timings)

    def _look_up(self, source: Source, shaping: Shaping, timings: Timings) -> Embedded:
        parts = self._reader.split(self._preparation, source.content, shaping)
        prepared = [self._prepare(part, shaping, timings) for part in parts.items]
        with timings.measure("encode"):
            embedded = compute(self._tower, prepared)
        return self._preparation.join(embedded, parts.divisor)

    async def try_out(self, sizes: Sequence[int]) -> None:
        """Let every replica compute batches of these sizes before anything that waits.

        Raises:
            BackendError: the model failed, or answered numbers that are not finite.
            UnhealthyError: nothing is computed any more.
        """
        shaping = self._preparation.reduce(Shaping())
        prepared = await self._pool.run(self._preparation.prepare, self._reader.sample(), shaping)
        if self.is_table:
            self._tower.network(*self._preparation.collate([prepared]))
            return
        self._entrance.make_room_for(_BATCHES_AHEAD * self.lane.max_batch_size * prepared.nbytes)
        await self.lane.try_out(prepared, sizes)

    async def aclose(self) -> None:
        """Stop; what still waits is answered with an error."""
        await asyncio.gather(self.lane.aclose(), self._pool.aclose())

    async def embed(
        self, source: Source, shaping: Shaping, party: Party, claim: Claim, timings: Timings
    ) -> Embedded:
        """Embed an input for those who wait for it.

        Args:
            source: the input.
            shaping: reduced.
            party: who waits.
            claim: is corrected as more is known of the cost, and as parts are done.
            timings: takes down where the time goes.

        Raises:
            InvalidInputError: the input cannot be read.
            BackendError: the model failed on it.
            UnhealthyError: nothing is computed any more.
        """
        with timings.item() as item:
            parts = await self._split(source.content, shaping, party, item)
            if len(parts.items) == 1:
                (part,) = parts.items
                embedded = [await self._embed_part(part, shaping, item, claim.set, party)]
            else:
                embedded = await self._embed_parts(parts.items, shaping, item, claim, party)
        return self._preparation.join(embedded, parts.divisor)

    async def _split(self, content: Any, shaping: Shaping, party: Party, timings: Timings) -> Parts:
        if self._reader.is_quick_to_split(content):
            return self._reader.split(self._preparation, content, shaping)
        async with self._entrance.entered(party):
            return await self._pool.run(self._split_in_thread, content, shaping, timings)

    def _split_in_thread(self, content: Any, shaping: Shaping, timings: Timings) -> Parts:
        with timings.measure("tokenise"):
            return self._reader.split(self._preparation, content, shaping)

    async def _embed_part(
        self,
        part: Any,
        shaping: Shaping,
        timings: Timings,
        tell_cost: Callable[[int], None],
        party: Party,
    ) -> Embedded:
        async with self._entrance.entered(party) as place:
            if self._reader.is_quick_to_prepare(part):
                prepared = self._prepare(part, shaping, timings)
            else:
                prepared = await self._pool.run(self._prepare, part, shaping, timings)
            place.prepared(prepared.nbytes)
            tell_cost(prepared.cost)
            row, run_s = await self.lane.compute(prepared, party)
        timings.add("encode", run_s)
        return Embedded(row, prepared.tokens, prepared.truncated)

    def _prepare(self, part: Any, shaping: Shaping, timings: Timings) -> Prepared:
        return self._reader.prepare(self._preparation, part, shaping, timings)

    async def _embed_parts(
        self, parts: Sequence[str], shaping: Shaping, timings: Timings, claim: Claim, party: Party
    ) -> list[Embedded]:
        """Embed the parts of a text; equal ones are computed once, whoever asks for them."""
        keys = [_key_of(part, shaping) for part in parts]
        one_done = partial(claim.reduce, claim.cost // len(set(keys)))
        computations = {
            key: partial(self._embed_one_of_many, part, shaping, timings, one_done)
            for key, part in zip(keys, parts, strict=True)
        }
        outcomes = await self._parts.outcomes(computations, party)
        try:
            return [value_of(outcomes[key]) for key in keys if key in outcomes]
        finally:
            outcomes.clear()  # an error in it will know this frame: a cycle

    async def _embed_one_of_many(
        self,
        part: str,
        shaping: Shaping,
        timings: Timings,
        one_done: Callable[[], None],
        party: Party,
    ) -> Embedded:
        with timings.item() as item:
            embedded = await self._embed_part(part, shaping, item, _tell_nobody, party)
        one_done()
        return embedded


def _key_of(part: str, shaping: Shaping) -> bytes:
    return hashlib.sha256(f"{shaping.key}\n{part}".encode()).digest()


def _nbytes(embedded: Embedded) -> int:
    return embedded.vector.nbytes + _OVERHEAD_BYTES


def _tell_nobody(_cost: int) -> None:
    """The input's claim was made for all of its parts."""

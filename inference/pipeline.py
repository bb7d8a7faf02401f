"""The pipeline of one modality: reads and preprocesses inputs, and passes them to the scheduler.

    input -> read -> WorkItem -> preprocess (inline, or a slot and a thread) -> scheduler -> rows
    result <- collect <------------------------------------------------------------------'

This module knows no HTTP and no model library.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from typing import Any

from backends.embed import compute
from backends.model import EmbeddingResult, EncodeParams, ModelInput, Pair, Tower
from errors import DeviceMemoryError, UnhealthyError
from inference.admission import Admission
from inference.preprocess import Preprocessor
from inference.preprocess_limiter import PreprocessLimiter, Turn
from inference.request import EmbedInput
from inference.scheduler import Scheduler
from inference.timings import ItemTimes
from inference.vector_cache import RowMemory
from inference.work import ChunkInputs, QueueEntry, WorkItem
from inference.worker_pool import WorkerPool


class Pipeline:
    """Embeds the inputs of one modality.

    Args:
        space: the model's vector space or score space; part of cache keys.
        tower: the model's tower, from any replica.
        preprocessor: reads and preprocesses inputs.
        pool: threads for preprocessing.
        admission: the admission control.
        scheduler: the scheduler of batches.
        limiter: the limiter of preprocessing in threads.
        rows: the cache of sentence rows.

    Attributes:
        admission: the admission control.
        scheduler: the scheduler of batches.
        processor: the tower's input processor.
        preprocessor: the preprocessor of inputs.
        is_lookup: whether the tower only looks rows up, without a queue.
    """

    def __init__(
        self,
        space: str,
        tower: Tower,
        preprocessor: Preprocessor,
        pool: WorkerPool,
        admission: Admission,
        scheduler: Scheduler,
        limiter: PreprocessLimiter,
        rows: RowMemory,
    ) -> None:
        self.admission = admission
        self.scheduler = scheduler
        self.is_lookup = tower.is_lookup
        self._space = space
        self.processor = tower.processor
        self.preprocessor = preprocessor
        self._tower = tower
        self._pool = pool
        self._limiter = limiter
        self._rows = rows

    async def read(self, embed_input: EmbedInput, times: ItemTimes) -> WorkItem:
        """Read an input of a request: inline, or in a thread if it is long.

        Raises:
            InvalidInputError: the input is invalid.
            RequestTooLargeError: the input exceeds the limits.
        """
        if self.preprocessor.reads_inline(embed_input.content):
            return self._read(embed_input, times)
        return await self._pool.run(self._read, embed_input, times)

    def _read(self, embed_input: EmbedInput, times: ItemTimes) -> WorkItem:
        params = self.processor.resolve(embed_input.params)
        content = self.preprocessor.read(embed_input.content, times)
        options = params.key  # with its length, as a task may hold any character
        key = hashlib.sha256(
            f"{self._space}/{embed_input.modality}/{len(options)}/{options}/".encode()
        )
        if isinstance(content, Pair):  # with the length of the query
            key.update(f"{len(content.query)}/{content.query}{content.document}".encode())
        else:
            key.update(content.encode() if isinstance(content, str) else content)
        return WorkItem(embed_input.modality, content, params, key.digest(), times)

    def start(self, item: WorkItem) -> Sequence[QueueEntry]:
        """Start to preprocess an admitted item.

        Returns:
            The entries to submit, if it was preprocessed inline. Otherwise a thread preprocesses
            the item, which then goes to the scheduler.
        """
        if not self.preprocessor.runs_inline(item.content):
            item.task = asyncio.create_task(self._preprocess_in_thread(item))
            return ()
        try:
            return self._entries(item, self.preprocessor(item.content, item.params, item.times))
        except BaseException as error:  # noqa: BLE001 - any error is the item's
            item.fail(error)
            return ()

    def submit(self, entries: Sequence[QueueEntry]) -> None:
        """Submit entries of `start` to the scheduler; if it has ended, their items fail."""
        waiting = [entry for entry in entries if not entry.item.is_done]
        if not waiting:
            return
        try:
            self.scheduler.submit(waiting)
        except UnhealthyError as error:
            for entry in waiting:
                entry.item.fail(error)

    async def _preprocess_in_thread(self, item: WorkItem) -> None:
        turn = Turn(item.waiters)
        item.entries.append(turn)
        try:
            item.slot = await self._limiter.acquire(turn)
            chunks = await self._pool.run(self.preprocessor, item.content, item.params, item.times)
            item.slot.hold(chunks.nbytes)
            self.submit(self._entries(item, chunks))
        except BaseException as error:
            if item.is_done:  # no request waits for it any more
                raise
            item.fail(error)

    def _entries(self, item: WorkItem, chunks: ChunkInputs) -> Sequence[QueueEntry]:
        """Return an entry for each chunk whose row is not cached."""
        known = [self._rows.get((self._space, key)) for key in chunks.keys]
        remembered = known or [None] * len(chunks.inputs)
        item.expect_rows(chunks, remembered)
        entries = [QueueEntry(item, place) for place, row in enumerate(remembered) if row is None]
        item.entries.extend(entries)
        return entries

    def collect(self, item: WorkItem) -> None:
        """Join the rows of an item to its result; if that fails, set its error."""
        chunks, rows = item.chunks, [row for row in item.rows if row is not None]
        try:
            for key, row in zip(chunks.keys, rows, strict=False):
                self._rows.put((self._space, key), row)
            parts = [rows[place] for place in chunks.places]
            item.result = self.processor.join(parts, chunks.divisor)
        except Exception as error:  # noqa: BLE001 - any error is the item's
            item.spoil(error)

    async def embed_by_lookup(self, item: WorkItem) -> EmbeddingResult:
        """Embed by lookup, without cache and queue; inline, or in a thread if the input is long.

        Raises:
            InvalidInputError: the input cannot be read.
        """
        if self.preprocessor.runs_inline(item.content):
            return self._look_up(item)
        return await self._pool.run(self._look_up, item)

    def _look_up(self, item: WorkItem) -> EmbeddingResult:
        chunks = self.preprocessor(item.content, item.params, item.times)
        item.times.batch_began_s = item.times.preprocessed_s
        rows = compute(self._tower, chunks.inputs)
        item.times.batch_ended_s = item.times.ended_s = time.perf_counter()
        return self.processor.join([rows[i] for i in chunks.places], chunks.divisor)

    async def try_out(self, sizes: Sequence[int]) -> None:
        """Let every replica compute trial batches of these sizes, of a small input.

        Raises:
            BackendError: the model failed, or returned numbers that are not finite.
            UnhealthyError: the service cannot compute any more.
        """
        sample = await self._prepared(next(self.preprocessor.samples()))
        if self.is_lookup:
            self._tower.network(*self.processor.collate([sample]))
            return
        self._limiter.item_nbytes = sample.nbytes
        await self.scheduler.try_out(sample, sizes)

    async def try_out_largest(self) -> None:
        """Let every replica compute the largest batch that requests can form.

        Inputs grow until the model truncates them, or until one input takes as long as a batch may.
        A small trial batch must have been computed before, as its rate estimates these durations.

        Raises:
            BackendError: the model failed, or returned numbers that are not finite.
            UnhealthyError: the service cannot compute any more.
        """
        if self.is_lookup:
            return
        largest, capacity = None, self.scheduler.capacity
        for content in self.preprocessor.samples():
            sample = await self._prepared(content)
            if largest and not largest.cost < sample.cost <= capacity.max_batch_cost:
                break
            if not await self._fits(sample, 1):
                break
            largest = sample
        if largest:
            allowed = capacity.max_batch_cost // largest.cost
            size = int(max(1, min(capacity.max_batch_size, allowed)))
            while size and not await self._fits(largest, size):
                size //= 2

    async def _fits(self, sample: ModelInput, size: int) -> bool:
        """Compute a trial batch; return whether the device's memory is large enough for it."""
        try:
            await self.scheduler.try_out(sample, (size,))
        except DeviceMemoryError:
            return False
        return True

    async def _prepared(self, content: Any) -> ModelInput:
        params = self.processor.resolve(EncodeParams())
        return await self._pool.run(self.processor.prepare, content, params)

    async def aclose(self) -> None:
        """Stop; waiting items end with an error."""
        await asyncio.gather(self.scheduler.aclose(), self._pool.aclose())

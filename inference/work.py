"""The work item: an input on its way to its vector, and the requests that wait for it.

    read --> in the cache: the request takes the vector, and the new item is discarded
        |--> in flight: the request joins the item in flight, and the new item is discarded
        '--> admitted (permit) -> preprocessed (slot) -> queued, in chunks -> computed -> ended

An item ends with a row for each chunk, with an error, or because no request waits for it any more.
Then its permit and its slot are released, and its waiting requests are woken.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from copy import copy
from typing import Any, NamedTuple

from backends.model import EmbeddingResult, EncodeParams, Modality, ModelInput
from errors import InvalidInputError, ServiceError
from inference.admission import Permit
from inference.fair_queue import Entry
from inference.preprocess_limiter import Slot
from inference.request import RequestContext
from inference.tasks import detached
from inference.timings import ItemTimes


class ChunkInputs(NamedTuple):
    """A preprocessed input: its distinct chunks.

    Attributes:
        inputs: model inputs of the distinct chunks.
        keys: cache keys of their rows; empty if rows are not cached.
        places: for each chunk of the input, in order, its index in `inputs`.
        divisor: the sum of the rows is divided by this number.
    """

    inputs: Sequence[ModelInput]
    keys: Sequence[bytes] = ()
    places: Sequence[int] = (0,)
    divisor: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes of the model inputs."""
        return sum(model_input.nbytes for model_input in self.inputs)


class WorkItem:
    """An input on its way to its vector.

    Args:
        modality: the modality.
        content: the text, the pair, or the bytes of the image file.
        params: parameters of preprocessing and pooling.
        key: the cache key: a digest of everything that affects the vector.
        times: timestamps of its stages.

    Attributes:
        waiters: the requests that wait for the item; one of them is charged for it.
        permit: the permit to wait; None before it is admitted.
        slot: the slot of its preprocessing in a thread; None if it is preprocessed inline.
        task: the task that waits for the thread.
        entries: its queue entries; each has a turn for each waiter.
        chunks: its chunks, once it is preprocessed.
        rows: rows of the chunks; None for a chunk that is not computed yet.
        result: the result from the rows; None before the end.
        error: the error, if it failed.
        has_rows: whether all rows are computed.
        is_done: whether it has ended.
    """

    __slots__ = (
        "_missing",
        "chunks",
        "content",
        "entries",
        "error",
        "has_rows",
        "is_done",
        "key",
        "modality",
        "params",
        "permit",
        "result",
        "rows",
        "slot",
        "task",
        "times",
        "waiters",
    )

    def __init__(
        self,
        modality: Modality,
        content: Any,
        params: EncodeParams,
        key: bytes,
        times: ItemTimes,
    ) -> None:
        self.modality = modality
        self.content = content
        self.params = params
        self.key = key
        self.times = times
        self.waiters: list[RequestContext] = []
        self.permit: Permit | None = None
        self.slot: Slot | None = None
        self.task: asyncio.Task[None] | None = None
        self.entries: list[Entry] = []
        self.chunks = ChunkInputs(())
        self.rows: list[EmbeddingResult | None] = []
        self.result: EmbeddingResult | None = None
        self.error: Exception | None = None
        self.has_rows = False
        self.is_done = False
        self._missing = 0

    @property
    def can_be_joined(self) -> bool:
        """Whether the item has a result, or may still get one."""
        return self.has_rows or not self.is_done

    def join(self, request: RequestContext) -> None:
        """Add a waiting request; each queued entry gets a turn for the request."""
        self.waiters.append(request)
        request.pending += not self.is_done
        if request.is_query and self.permit and not self.permit.payer.is_query:
            self.permit.pass_to(request)  # now served as a query
        for entry in self.entries:
            if entry.queue is not None:
                entry.queue.give_turn(entry, request)

    def leave(self, request: RequestContext) -> None:
        """Remove a waiting request and its turns; when no request waits any more, the item ends."""
        self.waiters.remove(request)
        if not self.waiters:
            task, self.task = self.task, None  # avoids a reference cycle
            self._end()
            if task:
                task.cancel()
            return
        for entry in self.entries:
            if entry.queue is not None:
                entry.queue.take_turn(entry, request)
        if self.permit and self.permit.payer is request:
            queries = (other for other in self.waiters if other.is_query)
            self.permit.pass_to(next(queries, self.waiters[0]))

    def expect_rows(
        self, chunks: ChunkInputs, remembered: Sequence[EmbeddingResult | None]
    ) -> None:
        """Set the chunks to compute.

        Args:
            chunks: the chunks of the item.
            remembered: cached rows of the chunks; None for a chunk to compute.
        """
        self.chunks = chunks
        self.rows = list(remembered)
        self._missing = self.rows.count(None)
        if self.permit:
            pairs = zip(chunks.inputs, self.rows, strict=True)
            self.permit.set_cost(sum(model_input.cost for model_input, row in pairs if row is None))
        if not self._missing:
            self.has_rows = True
            self._end()

    def add_row(self, place: int, row: EmbeddingResult, began_s: float, ended_s: float) -> None:
        """Set the row of a chunk.

        Args:
            place: index of the chunk.
            row: the row.
            began_s: timestamp of the begin of the forward pass, in seconds.
            ended_s: timestamp of the end of the forward pass, in seconds.
        """
        if self.is_done:
            return
        self.rows[place] = row
        self._missing -= 1
        if self._missing:
            if self.permit:
                self.permit.set_cost(self.permit.cost - self.chunks.inputs[place].cost)
            return
        self.times.batch_began_s, self.times.batch_ended_s = began_s, ended_s
        self.has_rows = True
        self._end()

    def fail(self, error: BaseException) -> None:
        """End the item with an error, unless it has ended already."""
        if not self.is_done:
            self.error = detached(error)
            self._end()

    def spoil(self, error: BaseException) -> None:
        """Replace the rows by an error, after they could not be joined to a result."""
        self.has_rows = False
        self.error = detached(error)

    def _end(self) -> None:
        self.is_done = True
        self.times.ended_s = time.perf_counter()
        for request in self.waiters:
            request.item_ended(has_failed=self.error is not None)
        if self.permit:
            self.permit.release()
        if self.slot:
            self.slot.release()
        for entry in self.entries:
            if entry.queue is not None:
                entry.queue.remove(entry)
        # Free the content, and break the cycle with its entries.
        self.entries = []
        self.chunks = self.chunks._replace(inputs=())
        self.content = None


class QueueEntry(Entry):
    """A chunk in a queue for batches.

    Args:
        item: the chunk's item.
        place: index among the item's chunks.
    """

    __slots__ = ("item", "model_input", "place")

    def __init__(self, item: WorkItem, place: int) -> None:
        self.model_input = item.chunks.inputs[place]
        super().__init__(item.waiters, self.model_input.bucket, self.model_input.cost)
        self.item = item
        self.place = place


def request_error(error: Exception, name: str) -> Exception:
    """Return a copy of an item's error for one request to raise.

    Several requests may wait for an item, and a traceback belongs to one request.

    Args:
        error: the item's error.
        name: the input's name in the request.
    """
    if isinstance(error, InvalidInputError):
        return error.at(name)
    if isinstance(error, ServiceError):
        return copy(error)
    return RuntimeError(f"{name}: {type(error).__name__}: {error}")

"""The work item: one input on its way to its vector, and the requests that wait for it.

    read --> in the cache: the request takes the vector, and this item goes
        |--> in flight: the request joins the item that is under way, and this one goes
        '--> admitted (permit) -> preprocessed (slot) -> queued, in chunks -> computed -> ended

An item ends with a row for each chunk, with an error, or because no request waits for it any more.
Then its permit and its slot are given back, and the requests that wait for it are woken.
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
    """An input that is preprocessed: the parts that are computed, each once.

    Attributes:
        inputs: for the model, one or more.
        keys: digests by which their rows are remembered; empty where they are not.
        places: for each part of the input, in its order, the place of its chunk.
        divisor: by which the sum of the parts' rows is divided.
    """

    inputs: Sequence[ModelInput]
    keys: Sequence[bytes] = ()
    places: Sequence[int] = (0,)
    divisor: int = 1

    @property
    def nbytes(self) -> int:
        """The memory that they take while they wait."""
        return sum(one.nbytes for one in self.inputs)


class WorkItem:
    """One input of a model.

    Args:
        modality: of the tower that reads it.
        content: the text, or the bytes of the image's file.
        params: how it is read.
        key: a digest of all that shapes its vector.
        times: when it passes each stage.

    Attributes:
        waiters: the requests that wait for it; the first is charged for it.
        permit: to wait; None before it is admitted.
        slot: where a thread preprocesses it; None where the event loop does.
        task: waits for that thread.
        entries: its places in queues; they have the turns of all its waiters.
        chunks: its parts, once it is preprocessed.
        rows: of the chunks; None for one that is not computed yet.
        result: what the rows make; None before it is there.
        error: why there is none.
        has_rows: whether all rows are there.
        is_done: whether it has ended, however it did.
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
        """Whether it has a result, or may still get one."""
        return self.has_rows or not self.is_done

    def join(self, request: RequestContext) -> None:
        """Let a request wait for it; what waits in queues gets a turn of that request, too."""
        self.waiters.append(request)
        if request.is_query and self.permit and not self.permit.payer.is_query:
            self.permit.pass_to(request)  # it is served as a query now
        for entry in self.entries:
            if entry.queue is not None:
                entry.queue.give_turn(entry, request)

    def leave(self, request: RequestContext) -> None:
        """Let a request wait no longer, nor have a turn; without any the item is given up."""
        self.waiters.remove(request)
        if not self.waiters:
            task, self.task = self.task, None  # its end would know this item
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
        """Take what it is computed from.

        Args:
            chunks: its parts.
            remembered: the rows that are there already, None for each that is not.
        """
        self.chunks = chunks
        self.rows = list(remembered)
        self._missing = self.rows.count(None)
        if self.permit:
            pairs = zip(chunks.inputs, self.rows, strict=True)
            self.permit.set_cost(sum(one.cost for one, row in pairs if row is None))
        if not self._missing:
            self.has_rows = True
            self._end()

    def add_row(self, place: int, row: EmbeddingResult, began_s: float, ended_s: float) -> None:
        """Take the row of a chunk.

        Args:
            place: of the chunk.
            row: its vector.
            began_s: when its forward pass began.
            ended_s: when that ended.
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
        """End with an error."""
        if not self.is_done:
            self.error = detached(error)
            self._end()

    def spoil(self, error: BaseException) -> None:
        """Take an error in place of a result, as the rows cannot be joined."""
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
        # Its entries know this item, and its content is wanted no more: an image, and its pixels.
        self.entries = []
        self.chunks = self.chunks._replace(inputs=())
        self.content = None


class QueueEntry(Entry):
    """A chunk that waits for a batch.

    Args:
        item: that it is a chunk of.
        place: among the item's chunks.
    """

    __slots__ = ("item", "model_input", "place")

    def __init__(self, item: WorkItem, place: int) -> None:
        self.model_input = item.chunks.inputs[place]
        super().__init__(item.waiters, self.model_input.bucket, self.model_input.cost)
        self.item = item
        self.place = place


def error_of_request(error: Exception, name: str) -> Exception:
    """Return an error of an item for one request to raise.

    Several requests may wait for one item, and a traceback belongs to one of them.

    Args:
        error: of the item.
        name: by which the request knows its input.
    """
    if isinstance(error, InvalidInputError):
        return error.at(name)
    if isinstance(error, ServiceError):
        return copy(error)
    return RuntimeError(f"{name}: {type(error).__name__}: {error}")

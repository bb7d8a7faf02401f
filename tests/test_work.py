"""The work item: its waiters, its permit, and its end."""

import asyncio
import weakref

import numpy as np
import pytest

from backends.model import EmbeddingResult, EncodeParams, ModelInput
from errors import BackendError, InvalidInputError, QueueFullError, RequestTooLargeError
from inference.admission import Admission, Permit
from inference.capacity import Capacity
from inference.fair_queue import Entry, FairQueue
from inference.request import RequestContext
from inference.timings import ItemTimes
from inference.work import ChunkInputs, QueueEntry, WorkItem, request_error

pytestmark = pytest.mark.anyio


def item_of(*costs: int) -> WorkItem:
    """Return an item of chunks of these costs, as its preprocessing leaves it."""
    item = WorkItem("text", "text", EncodeParams(), b"key", ItemTimes())
    item.chunks = ChunkInputs([ModelInput((np.array(0),), bucket=0, cost=cost) for cost in costs])
    return item


def row(value: float = 1) -> EmbeddingResult:
    return EmbeddingResult(np.full(2, value, np.float32))


def queued(item: WorkItem) -> FairQueue[Entry]:
    queue: FairQueue[Entry] = FairQueue()
    item.expect_rows(item.chunks, [None] * len(item.chunks.inputs))
    for place in range(len(item.chunks.inputs)):
        entry = QueueEntry(item, place)
        item.entries.append(entry)
        queue.put(entry)
    return queue


def test_a_query_that_joins_an_imports_item_is_served_as_a_query() -> None:
    imported, other = item_of(1), RequestContext()
    imported.join(RequestContext())
    queue = queued(imported)
    queue.put(Entry([other]))
    seen = [queue.is_query_next]
    imported.join(RequestContext(is_query=True))
    seen.append(queue.is_query_next)

    assert seen == [False, True]
    assert queue.take(max_size=9) == imported.entries


def test_the_turn_and_the_priority_of_a_query_that_leaves_go_with_it() -> None:
    admission = Admission(9, Capacity(4, timeout_s=45))
    importer, query, other = RequestContext(), RequestContext(is_query=True), RequestContext()
    imported = item_of(1)
    imported.permit = Permit(admission, importer, 1)
    imported.join(importer)
    queue = queued(imported)
    for _ in range(2):
        queue.put(Entry([other]))
    imported.join(query)
    assert admission.costs == {query: 1}
    imported.leave(query)

    assert not queue.is_query_next
    assert admission.costs == {importer: 1}
    assert queue.take(max_size=1) == imported.entries  # in the turn that it had before
    assert len(queue) == 2
    assert len(queue.entries()) == 2


def test_the_charge_of_a_query_that_leaves_passes_to_another_query() -> None:
    admission = Admission(9, Capacity(4, timeout_s=45))
    importer, *queries = RequestContext(), *(RequestContext(is_query=True) for _ in range(2))
    item = item_of(1)
    item.permit = Permit(admission, importer, 1)
    for request in (importer, *queries):
        item.join(request)
    item.leave(queries[0])

    assert admission.costs == {queries[1]: 1}


def test_the_first_request_is_charged_and_its_charge_passes_on_when_it_leaves() -> None:
    admission = Admission(9, Capacity(4, timeout_s=45))
    first, second = RequestContext(), RequestContext()
    item = item_of(5)
    item.permit = Permit(admission, first, 5)
    for request in (first, second):
        item.join(request)
    item.leave(first)
    assert admission.costs == {second: 5}
    item.leave(second)

    assert item.is_done
    assert (admission.items, admission.cost, admission.costs) == (0, 0, {})


def test_what_an_item_still_costs_falls_with_each_row() -> None:
    admission = Admission(9, Capacity(4, timeout_s=45))
    request, item = RequestContext(), item_of(3, 4)
    item.permit = Permit(admission, request, 99)  # estimated
    item.join(request)
    queued(item)
    assert admission.cost == 7
    item.add_row(0, row(), 1, 2)
    assert (admission.cost, item.has_rows) == (4, False)
    item.add_row(1, row(), 3, 5)

    assert (admission.cost, item.has_rows, item.is_done) == (0, True, True)
    assert item.times.stages()["encode"] == 2  # of the last


def test_an_item_without_a_request_leaves_its_queues() -> None:
    request, item = RequestContext(), item_of(1, 1)
    item.join(request)
    queue = queued(item)
    item.leave(request)

    assert len(queue) == 0
    item.add_row(0, row(), 1, 2)  # of a batch that was under way
    assert not item.has_rows


async def test_a_request_is_woken_once_when_all_have_ended_or_one_has_failed() -> None:
    request, items = RequestContext(), [item_of(1) for _ in range(3)]
    for item in items:
        item.join(request)
        queued(item)
    waiting = asyncio.create_task(request.wait())
    await asyncio.sleep(0)
    items[0].add_row(0, row(), 1, 2)
    await asyncio.sleep(0)
    assert not waiting.done()
    items[1].fail(BackendError("no"))
    await asyncio.wait_for(waiting, 1)
    items[2].add_row(0, row(), 1, 2)


@pytest.mark.usefixtures("without_collector")
def test_an_error_keeps_no_frame_and_that_of_a_bug_keeps_their_text() -> None:
    class Batch(list[int]):
        """What the frame of a failed computation holds."""

    def compute(batch: Batch) -> None:
        raise ZeroDivisionError(f"{len(batch)} items")

    def failed() -> tuple[WorkItem, weakref.ref[Batch]]:
        item, batch = item_of(1), Batch([1])
        try:
            compute(batch)
        except ZeroDivisionError as error:
            item.fail(error)
        return item, weakref.ref(batch)

    item, batch = failed()
    assert batch() is None
    assert item.error is not None
    assert "in compute" in item.error.__notes__[0]


def test_each_request_raises_an_error_of_its_own() -> None:
    cause = RequestTooLargeError("too long", "text_length")
    named = request_error(cause, "texts[1]")
    assert isinstance(named, RequestTooLargeError)
    assert (str(named), named.reason) == ("texts[1]: too long", "text_length")
    full = QueueFullError("full", retry_after_s=3)
    copied = request_error(full, "texts[1]")
    assert isinstance(copied, QueueFullError)
    assert copied is not full
    assert (str(copied), copied.retry_after_s) == ("full", 3)
    bug = request_error(ZeroDivisionError("by 0"), "texts[1]")
    assert str(bug) == "texts[1]: ZeroDivisionError: by 0"
    assert not isinstance(bug, InvalidInputError)

"""Properties of the fair queue: the order of its entries."""

import weakref

from inference.fair_queue import Entry, FairQueue
from inference.request import RequestContext

BATCH = 16


class Named(Entry):
    def __init__(
        self, name: str, request: RequestContext, bucket: object = 0, cost: int = 1
    ) -> None:
        super().__init__([request], bucket, cost)
        self.name = name


def put(queue: FairQueue[Named], request: RequestContext, *names: str, bucket: object = 0) -> None:
    for name in names:
        queue.put(Named(name, request, bucket))


def taken(queue: FairQueue[Named], size: int = BATCH, cost: float = 1e9) -> list[str]:
    return [entry.name for entry in queue.take(size, cost)]


def test_callers_are_served_in_turn() -> None:
    queue: FairQueue[Named] = FairQueue()
    put(queue, RequestContext(), "a1", "a2", "a3", "a4")
    put(queue, RequestContext(), "b1", "b2")
    put(queue, RequestContext(), "c1")

    assert taken(queue, 4) == ["a1", "b1", "c1", "a2"]
    assert taken(queue, 4) == ["b2", "a3", "a4"]
    assert taken(queue, 4) == []


def test_who_comes_late_with_one_is_in_the_next_batch() -> None:
    queue: FairQueue[Named] = FairQueue()
    for _ in range(8):
        put(queue, RequestContext(), *map(str, range(256)))
    for _ in range(5):
        taken(queue)
    put(queue, RequestContext(), "late")

    assert taken(queue)[0] == "late"


def test_who_comes_late_in_another_bucket_is_the_next_batch() -> None:
    queue: FairQueue[Named] = FairQueue()
    for _ in range(8):
        put(queue, RequestContext(), *map(str, range(256)))
    taken(queue)
    put(queue, RequestContext(), "late", bucket="another")

    assert taken(queue) == ["late"]


def test_a_stream_of_newcomers_keeps_nobody_out() -> None:
    queue: FairQueue[Named] = FairQueue()
    put(queue, RequestContext(), *(f"old {i}" for i in range(40)), bucket="old")
    batches = []
    for _ in range(40):
        for _ in range(BATCH):
            put(queue, RequestContext(), "new", bucket="new")
        batches.append(taken(queue)[0])

    assert "old 0" in batches[:2]
    assert "old 16" in batches


def test_what_costs_more_has_its_turn_later_and_is_never_kept_out() -> None:
    queue: FairQueue[Named] = FairQueue()
    queue.put(Named("long", RequestContext(), bucket=64, cost=64))
    batches = []
    for _ in range(10):
        for _ in range(4):
            queue.put(Named("short", RequestContext(), bucket=8, cost=8))
        batches.append(taken(queue)[0])

    assert batches.index("long") in range(6, 9)


def test_queries_go_before_everything_else_and_share_no_batch_with_it() -> None:
    queue: FairQueue[Named] = FairQueue()
    put(queue, RequestContext(), "a passage", "another")
    put(queue, RequestContext(is_query=True), "a query")
    put(queue, RequestContext(is_query=True), "a query of another bucket", bucket=1)

    assert taken(queue) == ["a query"]
    assert taken(queue) == ["a query of another bucket"]
    assert taken(queue) == ["a passage", "another"]


def test_a_batch_holds_one_bucket_and_no_bucket_at_all_is_shared_with_nobody() -> None:
    queue: FairQueue[Named] = FairQueue()
    put(queue, RequestContext(), "long", bucket=64)
    put(queue, RequestContext(), "short", bucket=8)
    put(queue, RequestContext(), "alone", bucket=None)
    put(queue, RequestContext(), "alone too", bucket=None)
    put(queue, RequestContext(), "long too", bucket=64)

    batches = [taken(queue) for _ in range(4)]
    assert batches == [["long", "long too"], ["short"], ["alone"], ["alone too"]]


def test_a_batch_costs_no_more_than_allowed_but_for_one_entry_alone() -> None:
    queue: FairQueue[Named] = FairQueue()
    for cost in (5, 5, 5, 50, 1):
        queue.put(Named(str(cost), RequestContext(), cost=cost))

    assert [taken(queue, cost=12) for _ in range(5)] == [["1", "5", "5"], ["5"], ["50"], [], []]


def test_an_entry_has_the_turns_of_all_that_wait_for_it() -> None:
    queue: FairQueue[Named] = FairQueue()
    first = RequestContext()
    put(queue, first, "1", "2", "3")
    shared = Named("shared", first)
    queue.put(shared)
    put(queue, RequestContext(), "b")
    queue.give_turn(shared, RequestContext(is_query=True))

    assert taken(queue) == ["shared"]
    assert taken(queue) == ["1", "b", "2", "3"]
    assert len(queue) == 0


def test_what_is_removed_is_not_taken() -> None:
    queue: FairQueue[Named] = FairQueue()
    entry = Named("gone", RequestContext())
    queue.put(entry)
    put(queue, RequestContext(), "there")
    queue.remove(entry)

    assert len(queue) == 1
    assert taken(queue) == ["there"]


def test_what_is_removed_is_kept_by_no_turn_that_it_had() -> None:
    queue: FairQueue[Named] = FairQueue()
    put(queue, RequestContext(), "there")
    entry = Named("gone", RequestContext())
    queue.put(entry)
    queue.remove(entry)
    gone = weakref.ref(entry)
    del entry

    assert gone() is None

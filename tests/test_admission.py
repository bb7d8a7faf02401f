import math
import time
from collections.abc import Callable

import pytest

from errors import QueueFullError, RequestTooLargeError
from inference.admission import Admission, Permit
from inference.capacity import BatchStats, Capacity
from inference.request import RequestContext
from tests.fakes import Clock


def capacity_with_history(
    seconds_per_item: float, timeout_s: float = 10, clock: Callable[[], float] = time.perf_counter
) -> Capacity:
    """Return that of a device that has been busy for a while."""
    capacity = Capacity(2, timeout_s, clock=clock)
    for _ in range(20):
        capacity.observe(BatchStats(1, 4 * seconds_per_item, 4))
    return capacity


def admission_with_history(seconds_per_item: float, timeout_s: float = 10) -> Admission:
    return Admission(1000, capacity_with_history(seconds_per_item, timeout_s))


def permit(admission: Admission, cost: int = 1, payer: RequestContext | None = None) -> Permit:
    return Permit(admission, payer or RequestContext(), cost)


def test_items_and_their_cost_are_counted_until_their_end() -> None:
    admission = admission_with_history(seconds_per_item=0.5)
    first, second = permit(admission, 3), permit(admission, 4)

    assert admission.items == 2
    assert admission.work_s == pytest.approx(3.5)
    first.release()
    second.release()
    assert admission.items == 0
    assert admission.work_s == 0
    assert not admission.costs


def test_more_items_than_fit_are_refused_all_or_none() -> None:
    admission = Admission(3, Capacity(4, timeout_s=10))
    permit(admission)
    permit(admission)

    admission.check(RequestContext(), cost=1, items=1)
    with pytest.raises(QueueFullError, match="2 items wait") as refusal:
        admission.check(RequestContext(), cost=2, items=2)
    assert refusal.value.retry_after_s >= 1
    with pytest.raises(RequestTooLargeError, match="4 items; at most 3 may wait"):
        admission.check(RequestContext(), cost=4, items=4)


def test_the_wait_is_that_of_a_fair_queue() -> None:
    admission = admission_with_history(seconds_per_item=0.5)
    newcomer = RequestContext()
    assert admission.expected_wait_s(newcomer, 1) == pytest.approx(0.5)

    bulk = RequestContext()
    for _ in range(100):
        permit(admission, 1, bulk)
    permit(admission, 3)

    assert admission.expected_wait_s(newcomer, 1) == pytest.approx(0.5 * (1 + 1 + 1))
    assert admission.expected_wait_s(newcomer, 10) == pytest.approx(0.5 * (10 + 3 + 10))


def test_a_query_waits_for_queries_only() -> None:
    admission = admission_with_history(seconds_per_item=0.5)
    permit(admission, 100)
    permit(admission, 2, RequestContext(is_query=True))

    assert admission.expected_wait_s(RequestContext(is_query=True), 5) == pytest.approx(
        0.5 * (2 + 5)
    )
    assert admission.expected_wait_s(RequestContext(), 5) == pytest.approx(0.5 * (5 + 2 + 5))


def test_a_cost_is_corrected_and_ends_with_what_it_was_for() -> None:
    admission = admission_with_history(seconds_per_item=1)
    held = permit(admission, 10)
    held.set_cost(4)
    held.set_cost(3)
    assert admission.work_s == pytest.approx(3)

    held.release()
    held.set_cost(1)  # a chunk that ends later
    held.release()
    assert admission.work_s == 0


def test_a_cost_passes_to_whoever_still_waits() -> None:
    admission = admission_with_history(seconds_per_item=1)
    gone, stays = RequestContext(), RequestContext()
    held = permit(admission, 5, gone)
    held.pass_to(stays)

    assert admission.costs == {stays: 5}
    held.release()
    assert not admission.costs


def test_the_rate_forgets_what_was_long_ago() -> None:
    capacity = capacity_with_history(seconds_per_item=0.5)
    admission = Admission(1000, capacity)
    for _ in range(100):
        capacity.observe(BatchStats(1, 1, 10))

    assert admission.expected_wait_s(RequestContext(), 1) == pytest.approx(0.1, rel=0.01)


@pytest.mark.parametrize("pass_s", [1, 4])
def test_what_cannot_be_answered_in_time_is_refused_until_a_pass_has_ended(pass_s: int) -> None:
    capacity = capacity_with_history(seconds_per_item=1.0, timeout_s=10)
    capacity.observe(BatchStats(1, pass_s, pass_s))
    admission = Admission(1000, capacity)
    for _ in range(7):
        permit(admission, 1)

    with pytest.raises(QueueFullError, match="about 8 s") as refusal:
        admission.check(RequestContext(), cost=1, items=1)
    assert refusal.value.retry_after_s == pass_s


def test_a_lone_request_is_admitted_where_it_could_be_answered_in_time() -> None:
    admission = admission_with_history(seconds_per_item=1.0, timeout_s=10)

    admission.check(RequestContext(), cost=10, items=10)
    permit(admission, 1)
    with pytest.raises(QueueFullError):  # it is the permit alone that makes the difference
        admission.check(RequestContext(), cost=10, items=10)


def test_what_no_idle_service_could_answer_is_too_large_and_reported_what_fits() -> None:
    capacity = capacity_with_history(seconds_per_item=1.0, timeout_s=10)
    admission = Admission(1000, capacity)

    with pytest.raises(RequestTooLargeError, match="send at most 5 at a time"):
        admission.check(RequestContext(), cost=20, items=10)
    capacity.max_batch_cost = 8  # but for one item alone
    with pytest.raises(RequestTooLargeError, match="send a smaller one"):
        admission.check(RequestContext(), cost=20, items=1)


def test_what_is_too_large_is_so_by_the_best_rate_that_was_seen() -> None:
    capacity = capacity_with_history(seconds_per_item=1.0, timeout_s=10)
    admission = Admission(1000, capacity)
    with pytest.raises(RequestTooLargeError):
        admission.check(RequestContext(), cost=20, items=10)
    capacity.observe(BatchStats(1, 1, 4))

    admission.check(RequestContext(), cost=20, items=10)


def test_small_passes_refuse_nothing_whose_own_will_be_larger() -> None:
    capacity = Capacity(16, timeout_s=10)
    admission = Admission(1000, capacity)
    for cost in (4, 8):  # the warm-up: all of it is overhead
        capacity.observe(BatchStats(1, 1, cost))
    capacity.max_batch_cost = math.inf  # whatever these say of the longest batch
    admission.check(RequestContext(), cost=1600, items=100)

    for _ in range(2):
        capacity.observe(BatchStats(1, 20, 256))
    with pytest.raises(RequestTooLargeError, match="send at most 8 at a time"):
        admission.check(RequestContext(), cost=1600, items=100)


def test_nobody_is_refused_by_what_was_long_ago() -> None:
    clock = Clock()
    admission = Admission(1000, capacity_with_history(1.0, clock=clock))
    clock.now_s = 500
    with pytest.raises(RequestTooLargeError):
        admission.check(RequestContext(), cost=20, items=10)
    clock.now_s = 601
    admission.check(RequestContext(), cost=20, items=10)

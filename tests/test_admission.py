import gc
import time
from collections.abc import Callable

import pytest

from errors import QueueFullError, RequestTooLargeError
from inference.admission import Admission, Claim
from inference.fair_queue import Caller, Party


def admission_with_history(
    seconds_per_item: float, timeout_s: float = 10, clock: Callable[[], float] = time.perf_counter
) -> Admission:
    """Return one whose queue has been busy for a while."""
    admission = Admission(1000, timeout_s, max_batch_size=2, clock=clock)
    for _ in range(20):
        admission.observe(run_s=4 * seconds_per_item, cost=4)
    return admission


def claim(admission: Admission, cost: int = 1, *callers: Caller) -> tuple[Claim, Party]:
    party = Party(callers or [Caller()])
    return admission.claim(party, cost), party


def test_items_and_their_cost_are_counted_until_their_end() -> None:
    admission = admission_with_history(seconds_per_item=0.5)
    _, first = claim(admission, 3)
    _, second = claim(admission, 4)

    assert admission.items == 2
    assert admission.work_s == pytest.approx(3.5)
    first.ended()
    second.ended()
    assert admission.items == 0
    assert admission.work_s == 0
    assert not admission.costs


def test_more_items_than_fit_are_refused_all_or_none() -> None:
    admission = Admission(max_items=3, timeout_s=10, max_batch_size=4)
    claim(admission)
    claim(admission)

    admission.check(Caller(), cost=1, items=1)
    with pytest.raises(QueueFullError, match="2 items wait") as refusal:
        admission.check(Caller(), cost=2, items=2)
    assert refusal.value.retry_after_s >= 1
    with pytest.raises(RequestTooLargeError, match="4 items; at most 3 may wait"):
        admission.check(Caller(), cost=4, items=4)


def test_the_wait_is_that_of_a_fair_queue() -> None:
    admission = admission_with_history(seconds_per_item=0.5)
    newcomer = Caller()
    assert admission.expected_wait_s(newcomer, 1) == pytest.approx(0.5)

    bulk = Caller()
    for _ in range(100):
        claim(admission, 1, bulk)
    claim(admission, 3)

    assert admission.expected_wait_s(newcomer, 1) == pytest.approx(0.5 * (1 + 1 + 1))
    assert admission.expected_wait_s(newcomer, 10) == pytest.approx(0.5 * (10 + 3 + 10))


def test_a_query_waits_for_queries_only() -> None:
    admission = admission_with_history(seconds_per_item=0.5)
    claim(admission, 100)
    claim(admission, 2, Caller(is_query=True))

    assert admission.expected_wait_s(Caller(is_query=True), 5) == pytest.approx(0.5 * (2 + 5))
    assert admission.expected_wait_s(Caller(), 5) == pytest.approx(0.5 * (5 + 2 + 5))


def test_a_cost_is_corrected_and_ends_with_what_it_was_for() -> None:
    admission = admission_with_history(seconds_per_item=1)
    held, party = claim(admission, 10)
    held.set(4)
    held.reduce(1)
    assert admission.work_s == pytest.approx(3)

    party.ended()
    held.reduce(1)  # a part that others wait for ends later
    assert admission.work_s == 0


def test_a_cost_passes_to_whoever_still_waits() -> None:
    admission = admission_with_history(seconds_per_item=1)
    gone, stays = Caller(), Caller()
    _, party = claim(admission, 5, gone, stays)
    party.left(gone)

    assert admission.costs == {stays: 5}
    party.ended()
    assert not admission.costs


def test_the_rate_forgets_what_was_long_ago() -> None:
    admission = admission_with_history(seconds_per_item=0.5)
    for _ in range(100):
        admission.observe(run_s=1, cost=10)

    assert admission.expected_wait_s(Caller(), 1) == pytest.approx(0.1, rel=0.01)


def test_what_cannot_be_answered_in_time_is_refused_and_told_when_to_come_back() -> None:
    admission = admission_with_history(seconds_per_item=1.0, timeout_s=10)
    for _ in range(7):
        claim(admission, 1)

    with pytest.raises(QueueFullError, match="about 8 s") as refusal:
        admission.check(Caller(), cost=1, items=1)
    assert refusal.value.retry_after_s == 1


def test_a_lone_request_is_let_in_where_it_could_be_answered_in_time() -> None:
    admission = admission_with_history(seconds_per_item=1.0, timeout_s=10)

    admission.check(Caller(), cost=10, items=10)
    claim(admission, 1)
    with pytest.raises(QueueFullError):  # it is the claim alone that makes the difference
        admission.check(Caller(), cost=10, items=10)


def test_what_no_idle_service_could_answer_is_too_large_and_told_what_fits() -> None:
    admission = admission_with_history(seconds_per_item=1.0, timeout_s=10)

    with pytest.raises(RequestTooLargeError, match="send at most 5 at a time"):
        admission.check(Caller(), cost=20, items=10)
    admission.max_pass_cost = 8  # but for one item alone
    with pytest.raises(RequestTooLargeError, match="send a smaller one"):
        admission.check(Caller(), cost=20, items=1)


def test_what_is_too_large_is_so_by_the_best_rate_that_was_seen() -> None:
    admission = admission_with_history(seconds_per_item=1.0, timeout_s=10)
    with pytest.raises(RequestTooLargeError):
        admission.check(Caller(), cost=20, items=10)
    admission.observe(run_s=1, cost=4)

    admission.check(Caller(), cost=20, items=10)


def test_small_passes_refuse_nothing_whose_own_will_be_larger() -> None:
    admission = Admission(max_items=1000, timeout_s=10, max_batch_size=16)
    for cost in (4, 8):  # the warm-up: all of it is overhead
        admission.observe(run_s=1, cost=cost)
    admission.check(Caller(), cost=1600, items=100)

    for _ in range(2):
        admission.observe(run_s=20, cost=256)
    with pytest.raises(RequestTooLargeError, match="send at most 8 at a time"):
        admission.check(Caller(), cost=1600, items=100)


def test_nobody_is_refused_by_what_was_long_ago() -> None:
    now_s = 0.0
    admission = admission_with_history(seconds_per_item=1.0, clock=lambda: now_s)
    now_s = 500
    with pytest.raises(RequestTooLargeError):
        admission.check(Caller(), cost=20, items=10)
    now_s = 601
    admission.check(Caller(), cost=20, items=10)


def test_a_claim_that_has_ended_is_no_cycle_for_the_collector() -> None:
    admission = Admission(max_items=10, timeout_s=10, max_batch_size=4)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            claim(admission)[1].ended()
        assert gc.collect() == 0
    finally:
        gc.enable()

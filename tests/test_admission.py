from contextlib import ExitStack

import pytest

from errors import QueueFullError
from inference.admission import Admission, ByteBudget


def admission_with_history(seconds_per_item: float, timeout_s: float = 10) -> Admission:
    """Return one whose queue has been busy for a while."""
    admission = Admission(max_items=1000, timeout_s=timeout_s)
    for _ in range(20):
        admission.observe(run_s=4 * seconds_per_item, size=4)
    return admission


def test_items_are_counted_while_they_are_inside() -> None:
    admission = Admission(max_items=2, timeout_s=10)

    with admission.entered(), admission.entered():
        assert admission.items == 2
    assert admission.items == 0


def test_more_items_than_fit_are_refused() -> None:
    admission = Admission(max_items=2, timeout_s=10)

    with admission.entered(), admission.entered():
        with pytest.raises(QueueFullError, match="2 items wait") as refusal, admission.entered():
            pass
        assert admission.items == 2
    assert refusal.value.retry_after_s >= 1


def test_the_expected_wait_follows_the_measured_rate() -> None:
    admission = admission_with_history(seconds_per_item=0.5)

    assert admission.expected_wait_s == pytest.approx(0.5)
    with admission.entered(), admission.entered(), admission.entered():
        assert admission.expected_wait_s == pytest.approx(2.0)


def test_the_rate_forgets_what_was_long_ago() -> None:
    admission = admission_with_history(seconds_per_item=0.5)
    for _ in range(100):
        admission.observe(run_s=1, size=10)

    assert admission.expected_wait_s == pytest.approx(0.1, rel=0.01)


def test_items_that_fail_or_are_given_up_change_no_estimate() -> None:
    admission = admission_with_history(seconds_per_item=0.5)
    for _ in range(100):
        with pytest.raises(ZeroDivisionError), admission.entered():
            raise ZeroDivisionError

    assert admission.items == 0
    assert admission.expected_wait_s == pytest.approx(0.5)


def test_what_cannot_be_answered_in_time_is_refused_and_told_when_to_come_back() -> None:
    admission = admission_with_history(seconds_per_item=1.0, timeout_s=10)
    with ExitStack() as inside:
        for _ in range(7):
            inside.enter_context(admission.entered())

        with pytest.raises(QueueFullError, match="about 8 s") as refusal, admission.entered():
            pass
    assert refusal.value.retry_after_s == 1


def test_a_lone_item_is_let_in_however_slow_the_model_is() -> None:
    admission = admission_with_history(seconds_per_item=60, timeout_s=10)

    with admission.entered():
        assert admission.items == 1


def test_bytes_are_held_until_the_end() -> None:
    budget = ByteBudget(100)
    with budget.reserved() as first:
        first.grow_to(60)
        first.grow_to(30)
        with budget.reserved() as second, pytest.raises(QueueFullError, match="overloaded"):
            second.grow_to(41)
        assert budget.used == 60
    assert budget.used == 0


def test_a_request_alone_may_be_larger_than_the_budget() -> None:
    budget = ByteBudget(100)

    with budget.reserved() as reservation:
        reservation.grow_to(150)
        assert budget.used == 150

from contextlib import ExitStack, suppress

import pytest

from inference.admission import Admission, ByteBudget
from inference.errors import InvalidInputError, QueueFullError


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def lane_with_history(clock: Clock, seconds_per_item: float, timeout_s: float = 10) -> Admission:
    """Return a lane that has been busy for a while, one item after the other."""
    lane = Admission(max_items=1000, timeout_s=timeout_s, clock=clock)
    for _ in range(20):
        with lane.entered():
            clock.now_s += seconds_per_item
    return lane


def test_items_are_counted_while_they_are_inside() -> None:
    lane = Admission(max_items=2, timeout_s=10)

    with lane.entered(), lane.entered():
        assert lane.items == 2
    assert lane.items == 0


def test_more_items_than_fit_are_refused() -> None:
    lane = Admission(max_items=2, timeout_s=10)

    with lane.entered(), lane.entered():
        with pytest.raises(QueueFullError, match="2 items wait") as refusal, lane.entered():
            pass
        assert lane.items == 2
    assert refusal.value.retry_after_s >= 1


def test_the_expected_wait_follows_the_measured_rate() -> None:
    clock = Clock()
    lane = lane_with_history(clock, seconds_per_item=0.5)

    assert lane.expected_wait_s == pytest.approx(0.5)
    with lane.entered(), lane.entered(), lane.entered():
        assert lane.expected_wait_s == pytest.approx(2.0)


def test_idle_time_does_not_slow_the_rate() -> None:
    clock = Clock()
    lane = lane_with_history(clock, seconds_per_item=0.5)
    clock.now_s += 3600
    with lane.entered():
        clock.now_s += 0.5

    assert lane.expected_wait_s == pytest.approx(0.5)


def test_items_that_were_given_up_do_not_count_as_done() -> None:
    clock = Clock()
    lane = lane_with_history(clock, seconds_per_item=0.5)
    for _ in range(100):
        with pytest.raises(ZeroDivisionError), lane.entered():
            raise ZeroDivisionError

    assert lane.expected_wait_s == pytest.approx(0.5)


def test_a_batch_counts_each_of_its_items() -> None:
    clock = Clock()
    lane = Admission(max_items=1000, timeout_s=10, clock=clock)
    for _ in range(5):
        with lane.entered(), lane.entered(), lane.entered(), lane.entered():
            clock.now_s += 1

    assert lane.expected_wait_s == pytest.approx(0.25, rel=0.1)


def test_what_cannot_be_answered_in_time_is_refused_and_told_when_to_come_back() -> None:
    clock = Clock()
    lane = lane_with_history(clock, seconds_per_item=1.0, timeout_s=10)
    with ExitStack() as inside:
        for _ in range(7):
            inside.enter_context(lane.entered())

        with pytest.raises(QueueFullError, match="about 8 s") as refusal, lane.entered():
            pass
    assert refusal.value.retry_after_s == 1


def test_a_lone_item_is_let_in_however_slow_the_model_is() -> None:
    clock = Clock()
    lane = lane_with_history(clock, seconds_per_item=60, timeout_s=10)

    with lane.entered():
        assert lane.items == 1


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


def test_broken_items_tell_nothing_of_the_rate_however_many_come() -> None:
    clock = Clock()
    lane = lane_with_history(clock, seconds_per_item=0.5)
    for _ in range(300):
        with suppress(InvalidInputError), lane.entered():
            clock.now_s += 1
            raise InvalidInputError("not an image")

    assert lane.expected_wait_s == pytest.approx(0.5)


def test_a_lane_that_stands_still_lets_nobody_in_before_anything_ended() -> None:
    clock = Clock()
    lane = lane_with_history(clock, seconds_per_item=1.0, timeout_s=10)
    with lane.entered(), lane.entered():
        clock.now_s += 30
        with pytest.raises(QueueFullError), lane.entered():
            pass


def test_hours_without_an_answer_do_not_make_the_wait_endless() -> None:
    clock = Clock()
    lane = lane_with_history(clock, seconds_per_item=1.0)
    for _ in range(40):
        with suppress(TimeoutError), lane.entered():
            clock.now_s += 1000
            raise TimeoutError

    with lane.entered(), pytest.raises(QueueFullError) as refusal, lane.entered():
        pass
    assert refusal.value.retry_after_s <= 3600

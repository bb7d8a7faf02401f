import pytest

from errors import BackendError, DeviceLostError
from inference.health import Health
from tests.fakes import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_new_service_is_well() -> None:
    health = Health()
    health.monitor("text")

    assert health.dead is None
    assert health.unready is None


def test_failures_in_a_row_make_it_unready_and_a_success_ends_that() -> None:
    health = Health()
    monitor = health.monitor("text")
    seen = []
    for failure in ("no", "no", "out of luck"):
        monitor.batch_failed(BackendError(failure))
        seen.append((health.dead, health.unready))
    monitor.batch_succeeded()
    seen.append((health.dead, health.unready))

    fault = "text: the last 3 batches failed: out of luck"
    assert seen == [(None, None), (None, None), (None, fault), (None, None)]


def test_a_success_in_one_scheduler_excuses_no_other() -> None:
    health = Health()
    texts, images = health.monitor("text"), health.monitor("image")
    for _ in range(3):
        images.batch_failed(BackendError("no"))
        texts.batch_succeeded()

    assert health.unready == "image: the last 3 batches failed: no"


def test_failures_of_several_modalities_do_not_add_up() -> None:
    health = Health()
    for monitor in (health.monitor("text"), health.monitor("image")):
        for _ in range(2):
            monitor.batch_failed(BackendError("no"))

    assert health.unready is None


def test_a_lost_device_is_for_ever() -> None:
    health = Health()
    monitor = health.monitor("text")
    monitor.batch_failed(DeviceLostError("Xid 79"))
    monitor.batch_succeeded()

    assert health.dead == "the device is lost, start the service anew: Xid 79"
    assert health.unready == health.dead


def test_the_first_reason_of_a_death_is_kept() -> None:
    health = Health()
    monitor = health.monitor("text")
    monitor.died("the text scheduler has ended", "a bug")
    monitor.died("the device is lost", "Xid 79")

    assert health.dead == "the text scheduler has ended, start the service anew: a bug"


def test_a_job_that_hangs_makes_it_unready_until_it_ends(clock: Clock) -> None:
    health = Health(longest_job_s=45, clock=clock)
    monitor = health.monitor("decode")
    monitor.job_began("job")
    seen = []
    for clock.now_s in (45, 46):
        seen.append(health.unready)
    monitor.job_ended("job")
    seen.append(health.unready)

    assert seen == [None, "decode: a job has not ended for 46 s", None]
    assert health.dead is None


def test_the_oldest_job_counts_however_many_end(clock: Clock) -> None:
    health = Health(longest_job_s=45, clock=clock)
    monitor = health.monitor("decode")
    monitor.job_began("hangs")
    clock.now_s = 40
    for number in range(10):
        monitor.job_began(number)
    clock.now_s = 50
    for number in range(10):
        monitor.job_ended(number)

    assert health.unready == "decode: a job has not ended for 50 s"


def test_a_job_that_never_ends_kills(clock: Clock) -> None:
    health = Health(longest_job_s=45, clock=clock)
    health.monitor("text")
    health.monitor("image").job_began("job")
    clock.now_s = 136

    assert health.dead == "image: a job has not ended for 136 s, start the service anew"

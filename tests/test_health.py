from errors import BackendError, DeviceLostError
from inference.health import Health


def test_a_new_service_is_well() -> None:
    health = Health()

    assert health.dead is None
    assert health.unready is None


def test_failures_in_a_row_make_it_unready_and_a_success_ends_that() -> None:
    health = Health()
    seen = []
    for failure in ("no", "no", "out of luck"):
        health.batch_failed(BackendError(failure))
        seen.append((health.dead, health.unready))
    health.batch_succeeded()
    seen.append((health.dead, health.unready))

    fault = "the last 3 batches failed: out of luck"
    assert seen == [(None, None), (None, None), (None, fault), (None, None)]


def test_a_lost_device_is_for_ever() -> None:
    health = Health()
    health.batch_failed(DeviceLostError("Xid 79"))
    health.batch_succeeded()

    assert health.dead == "the device is lost, start the service anew: Xid 79"
    assert health.unready == health.dead


def test_a_service_that_shuts_down_is_unready_but_alive() -> None:
    health = Health()
    health.draining = True

    assert health.unready == "shutting down"
    assert health.dead is None


def test_a_batch_that_hangs_makes_it_unready_until_it_ends() -> None:
    clock = iter([0.0, 45.0, 46.0, 46.0])  # when the batch begins, then for each question
    health = Health(longest_batch_s=45, clock=clock.__next__)
    with health.watched():
        seen = [health.unready, health.unready]
    seen.append(health.unready)

    assert seen == [None, "a batch has not ended for 46 s", None]
    assert health.dead is None

"""Jobs in processes of their own, and all their ends."""

import threading
import time

import pytest

from backends import jobs
from backends.jobs import (
    Answer,
    JobError,
    JobKilledError,
    JobStoppedError,
    run_in_subprocess,
    stop_jobs,
)


def ended(how: str) -> Answer:
    return run_in_subprocess(
        "tests.job_for_a_process",
        {"end": how},
        called="the job",
        timeout_s=3 if how == "slow" else 60,
    )


def test_the_answer_is_the_last_line() -> None:
    assert ended("well") == {"did": "well"}


@pytest.mark.parametrize(
    ("how", "kind", "sentence"),
    [
        ("fail", JobError, "no such thing"),
        ("crash", JobError, "the job ended with 1: no memory"),
        ("silent", JobError, "the job ended without an answer"),
        ("killed", JobKilledError, "the job was killed by signal 9, perhaps as memory ran out"),
        ("slow", JobKilledError, "the job did not end in 3 s"),
    ],
)
def test_a_job_that_is_not_done_says_why(how: str, kind: type[JobError], sentence: str) -> None:
    with pytest.raises(JobError) as raised:
        ended(how)

    assert (type(raised.value), str(raised.value)) == (kind, sentence)


def test_a_signal_to_stop_is_no_failure_of_the_job() -> None:
    with pytest.raises(JobStoppedError, match="the job was stopped by signal 15"):
        ended("stopped")


def test_a_job_of_another_thread_can_be_stopped() -> None:
    stopped: list[str] = []

    def work() -> None:
        with pytest.raises(JobStoppedError) as raised:
            run_in_subprocess("tests.job_for_a_process", {}, called="the job")
        stopped.append(str(raised.value))

    thread = threading.Thread(target=work)
    thread.start()
    while not jobs._running:
        time.sleep(0.01)
    stop_jobs()
    thread.join(30)

    assert stopped == ["the job was stopped by signal 15"]
    assert not jobs._running

"""Jobs in processes of their own, and all their ends."""

import pytest

from backends.jobs import Answer, JobError, JobKilledError, run_in_subprocess


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

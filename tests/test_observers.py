import logging

import pytest

from inference.observers import Observers


def test_one_that_fails_is_logged_and_counted_and_the_others_are_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_: int) -> None:
        raise ZeroDivisionError

    heard: list[int] = []
    observers = Observers(fail, heard.append)
    observers.add(heard.append)
    observers(1)
    observers(2)

    assert heard == [1, 1, 2, 2]
    assert observers.failures == 2
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert caplog.records[0].exc_info

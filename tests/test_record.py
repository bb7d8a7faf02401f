import logging
import re

import pytest

from inference.timings import Timings
from tests.service import ROOT
from web.logs import log_request
from web.record import Record

OFTEN = re.search(r"but for ([\d, and]+), which may come", (ROOT / "README.md").read_text())


def test_a_request_takes_the_stages_of_its_slowest_item_beside_its_own() -> None:
    request = Timings()
    request.add("read", 1)
    for decode_s, encode_s in ((1, 2), (5, 4), (3, 3)):
        with request.item() as item:
            item.add("decode", decode_s)
            item.add("encode", encode_s)
    request.add("serialise", 2)

    assert request.stages() == {"read": 1, "decode": 5, "encode": 4, "serialise": 2}


def test_what_an_item_does_not_work_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 101.0, 104.0, 110.0])  # item, measure, measured, item's end
    monkeypatch.setattr("inference.timings.time.perf_counter", lambda: next(clock))
    request = Timings()
    with request.item() as item, item.measure("encode"):
        pass

    assert request.stages() == {"encode": 3, "queue": 7}


def test_a_step_of_items_side_by_side_takes_the_stages_of_its_slowest() -> None:
    request = Timings()
    with request.step() as step:
        for decode_s in (2, 3, 1):
            with step.item() as item:
                item.add("decode", decode_s)
    for encode_s in (4, 5):
        with request.item() as item:
            item.add("encode", encode_s)

    assert request.stages() == {"decode": 3, "encode": 5}


def test_an_item_that_fails_is_timed_too() -> None:
    request = Timings()
    with pytest.raises(ZeroDivisionError), request.item() as item, item.measure("decode"):
        raise ZeroDivisionError

    assert set(request.stages()) == {"queue", "decode"}


def test_a_record_ends_with_its_status_and_its_time() -> None:
    record = Record()
    assert record.status == 0
    record.end(422)

    assert record.status == 422
    assert record.total_s > 0


@pytest.mark.parametrize("status", [400, 401, 404, 405, 408, 413, 415, 422, 429, 499, 500, 503])
def test_the_readme_says_which_failures_are_no_warnings(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    record = Record()
    record.end(status)
    log_request(record)

    assert OFTEN
    is_warning = str(status) not in OFTEN[1]
    assert [one.levelname for one in caplog.records] == ["WARNING" if is_warning else "DEBUG"]

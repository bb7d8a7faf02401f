import logging
import re

import pytest

from inference.timings import ItemTimes, RequestTimes
from tests.service import ROOT
from web.logs import log_request
from web.record import RequestRecord

LOG = (ROOT / "docs/operating.md").read_text()
OFTEN = re.search(r"Only ([\d, and]+), of which there may", LOG)


def item_times(ended_s: float, **moments: float) -> ItemTimes:
    times = ItemTimes()
    times.created_s, times.ended_s = 100, ended_s
    for name, moment in moments.items():
        setattr(times, name, moment)
    return times


def request_times(*items: ItemTimes, **moments: float) -> RequestTimes:
    times = RequestTimes()
    times.arrived_s, times.items = 90, list(items)
    for name, moment in moments.items():
        setattr(times, name, moment)
    return times


def test_a_request_takes_the_stages_of_its_slowest_item_beside_its_own() -> None:
    quick = item_times(105, preprocess_began_s=100, opened_s=101, preprocessed_s=102)
    slow = item_times(
        119,
        decoded_s=0.5,
        preprocess_began_s=103,
        opened_s=105,
        preprocessed_s=106,
        batch_began_s=110,
        batch_ended_s=114,
    )
    moments = {"read_began_s": 91, "read_ended_s": 94, "embed_began_s": 100}
    request = request_times(quick, slow, **moments, embed_ended_s=120, serialize_s=2)

    assert request.stages(ended_s=125) == {
        "read": 3,
        "queue": 20 - 0.5 - 2 - 1 - 4,
        "decode": 2.5,
        "preprocess": 1,
        "encode": 4,
        "serialize": 2,
    }
    assert list(request.stages(125)) == [
        "read",
        "queue",
        "decode",
        "preprocess",
        "encode",
        "serialize",
    ]


def test_a_text_is_tokenized_and_neither_decoded_nor_preprocessed() -> None:
    text = item_times(104, preprocess_began_s=101, preprocessed_s=102)

    assert text.stages() == {"tokenize": 1}


def test_a_request_that_fails_is_timed_as_far_as_it_came() -> None:
    unread = request_times(read_began_s=91)
    undecoded = request_times(
        item_times(0, decoded_s=1), read_began_s=91, read_ended_s=92, embed_began_s=92
    )

    assert unread.stages(ended_s=95) == {"read": 4}
    assert undecoded.stages(ended_s=95) == {"read": 1, "queue": 2, "decode": 1}
    assert request_times().stages(ended_s=95) == {}


def test_a_record_ends_with_its_status_and_its_time() -> None:
    record = RequestRecord()
    assert record.status == 0
    record.end(422)

    assert record.status == 422
    assert record.total_s > 0


@pytest.mark.parametrize("status", [400, 401, 404, 405, 408, 413, 415, 422, 429, 499, 500, 503])
def test_the_documentation_says_which_failures_are_no_warnings(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    record = RequestRecord()
    record.end(status)
    log_request(record)

    assert OFTEN
    is_warning = str(status) not in OFTEN[1]
    assert [one.levelname for one in caplog.records] == ["WARNING" if is_warning else "DEBUG"]

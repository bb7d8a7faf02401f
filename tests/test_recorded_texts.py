"""What the text container was asked, well and badly, and what has become of its faults here."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.golden_cases import Case, assert_same
from tests.golden_texts import GOLDEN_TEXTS
from tests.service import Service, running

Recorded = dict[str, Any]


class Answer(NamedTuple):
    status: int
    body: Any


def recorded(name: str) -> list[Recorded]:
    requests: list[Recorded] = json.loads((GOLDEN_TEXTS / f"{name}.json").read_text("utf-8"))
    return requests


def title(request: Recorded) -> str:
    said = [request["method"], request["path"], *request["headers"].values(), request["body"] or ""]
    return " ".join(part for part in said if part != "application/json").strip()


OPEN, CLOSED = recorded("http"), recorded("http_auth")
# The one answer that is none here: the reference takes so many numbers off the end.
NEGATIVE = 'POST /vectors {"text": "hello", "config": {"dimensions": -3}}'
# The faults and redirects that are answers here. All others are the request's.
ANSWERED = {
    "HEAD /.well-known/ready": 204,
    "GET /.well-known/ready/": 204,
    "GET /meta/": 200,
    "GET /": 200,
    'POST /vectors application/x-www-form-urlencoded {"text": "hello"}': 200,
    'POST /vectors text/plain {"text": "hello"}': 200,
    'POST /vectors {"text": ""}': 200,
    'POST /vectors Bearer two {"text": "hello"}': 200,  # of "one, two,three"
}


@pytest.fixture(scope="module")
def open_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("open") / "log", MODELS_DIR=GOLDEN_TEXTS / "bert") as one:
        yield one


@pytest.fixture(scope="module")
def closed_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("closed") / "log"
    tokens = {"AUTHENTICATION_ALLOWED_TOKENS": "one, two,three"}
    with running(log, MODELS_DIR=GOLDEN_TEXTS / "bert", **tokens) as one:
        yield one


def ask(service: Service, request: Recorded) -> Answer:
    with service.connect() as connection:
        body = None if request["body"] is None else request["body"].encode()
        connection.request(request["method"], request["path"], body, request["headers"])
        answer = connection.getresponse()
        raw = answer.read()
    return Answer(answer.status, json.loads(raw) if raw else "")


def check(service: Service, request: Recorded) -> None:
    status, body = ask(service, request)
    if title(request) in ANSWERED:
        assert request["status"] >= 300
        assert status == ANSWERED[title(request)]
    elif request["status"] >= 300 or title(request) == NEGATIVE:
        assert 400 <= status < 500
        assert isinstance(body["error"], str)
    else:
        assert status == request["status"]
        check_content(body, request["answer"])


def check_content(body: Any, expected: Any) -> None:
    if "vector" not in expected:  # tests/test_text_parity.py holds what `/meta` tells
        assert set(expected) <= set(body)
        return
    assert (body["text"], body["dim"]) == (expected["text"], expected["dim"])
    assert_same(np.array(body["vector"]), Case(body["text"], np.array(expected["vector"])))


@pytest.mark.parametrize("request_", OPEN, ids=map(title, OPEN))
def test_what_was_asked_without_tokens(open_service: Service, request_: Recorded) -> None:
    check(open_service, request_)


@pytest.mark.parametrize("request_", CLOSED, ids=map(title, CLOSED))
def test_what_was_asked_where_tokens_are_needed(
    closed_service: Service, request_: Recorded
) -> None:
    check(closed_service, request_)


def test_the_list_of_what_is_answered_holds_nothing_else() -> None:
    assert {*ANSWERED, NEGATIVE} <= {title(request) for request in (*OPEN, *CLOSED)}

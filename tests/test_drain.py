"""A signal while many requests wait: each that was sent before it is answered."""

import json
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fakes import vector_of
from tests.service import running
from tests.slow_service import TEXT_S

SLOW_SERVICE = (sys.executable, "-m", "tests.slow_service")
CLIENTS = 400


def test_each_request_that_was_sent_before_the_signal_gets_its_vector(tmp_path: Path) -> None:
    """The last ones stand in the listener's queue when the signal comes; none is accepted later."""
    bodies = [json.dumps({"texts": [f"text {number}"]}).encode() for number in range(CLIENTS)]
    with running(tmp_path / "log", SLOW_SERVICE) as service, ExitStack() as each:
        connections = [each.enter_context(service.connect()) for _ in bodies]
        for connection, body in zip(connections, bodies, strict=True):
            connection.request("POST", "/vectorize", body)
        service.process.send_signal(signal.SIGTERM)
        signalled_s = time.monotonic()
        answers = [connection.getresponse() for connection in connections]
        vectors = [json.loads(answer.read())["textVectors"][0] for answer in answers]
        assert service.process.wait(timeout=20) == 0
        drained_s = time.monotonic() - signalled_s

    assert {answer.status for answer in answers} == {200}
    for number, vector in enumerate(vectors):
        assert vector == pytest.approx(vector_of(f"text {number}").tolist())
    assert drained_s < 10 * CLIENTS * TEXT_S


def test_a_body_that_is_on_its_way_when_the_signal_comes_is_answered(tmp_path: Path) -> None:
    body = json.dumps({"texts": ["late"]}).encode()
    with running(tmp_path / "log", SLOW_SERVICE) as service:
        with service.connect() as connection:
            connection.putrequest("POST", "/vectorize")
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body[:5])
            while "inference_queue_bytes 5.0" not in service.metrics():
                pass
            service.process.send_signal(signal.SIGTERM)
            while "Shutting down" not in service.log.read_text():
                time.sleep(0.01)
            connection.send(body[5:])
            answer = connection.getresponse()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert service.process.wait(timeout=20) == 0

"""The signals of a real process."""

import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.golden_cases import GOLDEN
from tests.image_files import base64_of, plain
from tests.service import Service, ask, running, starting, wait_until_ready
from web.server import bind

IMAGE = base64_of(plain(size=(64, 64)))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def ready(service: Service) -> int:
    return service.request("GET", "/.well-known/ready")[0]


def keep_asking(service: Service, stop: threading.Event) -> Iterator[tuple[int, Any]]:
    number = 0
    while not stop.is_set():
        number += 1
        yield service.vectorize(texts=[f"{threading.get_ident()} {number}"])


def test_the_first_signal_drains_and_the_process_ends_with_0(log: Path) -> None:
    with running(log, MODELS_DIR=GOLDEN / "openai", DRAIN_DELAY_S=2) as service:
        stop = threading.Event()
        with ThreadPoolExecutor(4) as clients:
            asked = [clients.submit(list, keep_asking(service, stop)) for _ in range(4)]
            time.sleep(0.3)
            service.process.send_signal(signal.SIGTERM)
            while ready(service) == 204:
                pass
            refused = service.request("GET", "/.well-known/ready")
            assert service.request("GET", "/.well-known/live")[0] == 204
            assert header_of(service, "connection") == "close"  # clients come back elsewhere
            stop.set()
            answers = [answer for client in asked for answer in client.result()]
        assert refused == (503, {"error": "shutting down"})
        assert {status for status, _ in answers} == {200}
        assert len(answers) > 10
        assert service.process.wait(timeout=20) == 0
    assert "Stopping: requests in flight are answered first" in log.read_text()


def header_of(service: Service, name: str) -> str | None:
    with service.connect() as connection:
        connection.request("GET", "/meta")
        return connection.getresponse().headers.get(name)


def test_a_request_in_flight_is_answered(log: Path) -> None:
    texts = [f"text {number}" for number in range(200)]
    with running(log, MODELS_DIR=GOLDEN / "openai", MAX_BATCH_SIZE=1) as service:
        with ThreadPoolExecutor(1) as client:
            asked = client.submit(service.vectorize, texts=texts)
            while 'inference_queue_items{modality="text"} 0.0' in service.metrics():
                pass
            service.process.send_signal(signal.SIGTERM)
            status, answer = asked.result()
        assert status == 200
        assert len(answer["textVectors"]) == len(texts)
        assert service.process.wait(timeout=20) == 0


def test_a_second_signal_ends_at_once(log: Path) -> None:
    with running(log, MODELS_DIR=GOLDEN / "openai", DRAIN_DELAY_S=60) as service:
        service.process.send_signal(signal.SIGTERM)
        while ready(service) == 204:
            pass
        started_s = time.monotonic()
        service.process.send_signal(signal.SIGTERM)

        assert service.process.wait(timeout=20) == 128 + signal.SIGTERM
        assert time.monotonic() - started_s < 5


def test_a_signal_ends_a_start_and_the_conversion_in_it(log: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with starting(log, MODELS_DIR=GOLDEN / "openai", RUNTIME_CACHE_DIR=cache) as service:
        while "Converting" not in log.read_text():
            time.sleep(0.01)
        time.sleep(0.5)
        while len(processes_with(cache)) != 2:  # a library may run a program for a moment
            time.sleep(0.01)
        service.process.send_signal(signal.SIGTERM)

        assert service.process.wait(timeout=20) == 0
    assert "Stopped before it was ready" in log.read_text()
    assert not list(cache.glob("*"))
    assert processes_with(cache) == []


def test_a_signal_that_a_library_swallows_still_ends_the_service(log: Path) -> None:
    program = """
import asyncio, time, app, config
from tests.fakes import FakeModel
from vectorizer import Vectorizer

async def swallow(settings, resources):
    print("loading", flush=True)
    try:
        time.sleep(60)
    except BaseException:
        return Vectorizer([FakeModel().model], settings)

app.serve(config.Settings(), swallow)
"""
    with starting(log, (sys.executable, "-c", program)) as service:
        while "loading" not in log.read_text():
            time.sleep(0.01)
        service.process.send_signal(signal.SIGTERM)

        assert service.process.wait(timeout=20) == 0


# A model that is loaded as soon as a file is there.
GATED = """
import pathlib, sys, time, app, config
from tests.fakes import FakeModel
from vectorizer import Vectorizer

async def load(settings, resources):
    print("loading", flush=True)
    while not pathlib.Path(sys.argv[1]).exists():
        time.sleep(0.01)
    return Vectorizer([FakeModel().model], settings)

app.serve(config.Settings(), load)
"""


def gated(gate: Path) -> tuple[str, ...]:
    return (sys.executable, "-c", GATED.replace("{", "{{").replace("}", "}}"), str(gate))


def wait_for(word: str, log: Path) -> None:
    while word not in log.read_text():
        time.sleep(0.01)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::", "localhost"])
def test_a_port_that_is_taken_is_told_before_anything_is_loaded(log: Path, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with starting(log, gated(log), HOST=host, PORT=port) as service:
            assert service.process.wait(timeout=20) == 1

    assert (
        log.read_text()
        .splitlines()[-1]
        .endswith(
            f"Cannot start: PORT={port}: another process listens on it: end that one, or choose "
            "another port"
        )
    )
    assert "loading" not in log.read_text()


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("no.such.host.invalid", "HOST='no.such.host.invalid': no such address or name"),
        ("a" * 70, "no such address or name"),
        ("192.0.2.1", "HOST='192.0.2.1': this machine has no such address"),
    ],
)
def test_a_bad_host_is_told_before_anything_is_loaded(log: Path, host: str, said: str) -> None:
    with starting(log, gated(log), HOST=host) as service:
        assert service.process.wait(timeout=20) == 1

    assert log.read_text().splitlines()[-1].endswith(said)
    assert "loading" not in log.read_text()


def test_an_address_that_a_name_has_twice_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = socket.getaddrinfo("127.0.0.1", 0, type=socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found * 2)

    bound = bind("twice", 0)
    for listener in bound:
        listener.close()

    assert len(bound) == 1


def test_a_port_refuses_connections_until_the_model_is_loaded(log: Path, tmp_path: Path) -> None:
    with starting(log, gated(tmp_path / "gate")) as service:
        wait_for("loading", log)
        with pytest.raises(ConnectionRefusedError):
            service.request("GET", "/.well-known/ready")
        (tmp_path / "gate").touch()
        wait_until_ready(service)


def test_of_two_that_took_a_port_while_loading_the_second_ends(log: Path, tmp_path: Path) -> None:
    with starting(log, gated(tmp_path / "gate")) as service:
        wait_for("loading", log)
        with starting(tmp_path / "other", gated(log), PORT=service.port) as other:
            wait_until_ready(replace(other, port=service.port))
            (tmp_path / "gate").touch()
            assert service.process.wait(timeout=20) == 1

    assert f"Cannot start: PORT={service.port}: another process listens" in log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
def test_port_0_is_any_free_one_that_the_log_names(log: Path, host: str) -> None:
    with starting(log, gated(log), PORT=0, HOST=host) as service:
        wait_for("On port ", log)
        port = int(log.read_text().split("On port ")[1].split(":")[0])
        wait_until_ready(replace(service, port=port))

        assert port > 0


def processes_with(path: Path) -> list[Path]:
    """Processes whose environment names a path."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended, or is another user's
            found += [file] if bytes(path) in file.read_bytes() else []
    return found


def test_the_log_can_be_json(log: Path) -> None:
    with running(log, MODELS_DIR=GOLDEN / "openai", LOG_FORMAT="json") as service:
        service.vectorize(texts="wrong")
    lines = log.read_text().splitlines()

    assert all(line.startswith("{") for line in lines)
    assert [line for line in lines if '"status": 422' in line and '"request_id"' in line]


def test_none_in_flight_is_lost_when_the_signal_comes_under_load(log: Path) -> None:
    """Every request that began while the port was open is answered; later ones find it closed."""
    models = GOLDEN / "openai"
    with running(log, MODELS_DIR=models, VECTOR_CACHE_SIZE=0, DRAIN_DELAY_S=1) as service:

        def client(number: int) -> list[tuple[float, int]]:
            outcomes, started_s = [], 0.0
            body = {"texts": [f"client {number}"], "images": [IMAGE]}
            with service.connect() as connection, suppress(OSError, HTTPException):
                while True:
                    started_s = time.monotonic()
                    status, _ = ask(connection, "POST", "/vectorize", body, {})
                    outcomes.append((started_s, status))
            return [*outcomes, (started_s, 0)]

        with ThreadPoolExecutor(16) as pool:
            clients = [pool.submit(client, number) for number in range(16)]
            time.sleep(2)
            service.process.send_signal(signal.SIGTERM)
            signalled_s = time.monotonic()
            outcomes = [outcome for each in clients for outcome in each.result(timeout=30)]
        lost = [o for o in outcomes if o[1] != 200 and o[0] < signalled_s + 0.8]
        assert lost == []
        assert len([o for o in outcomes if o[1] == 200]) > 50
        assert service.process.wait(timeout=20) == 0

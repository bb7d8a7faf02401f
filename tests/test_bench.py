"""The benchmark's driver against small servers whose every answer is known."""

import base64
import io
import itertools
import json
import math
import sys
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import numpy as np
import pytest
from PIL import Image

from bench import __main__ as command_line
from bench import bare, inputs, report, run, service, wire
from bench.bare import Loop, LoopResult
from bench.bare_worker import BareModel
from bench.client import Connection, Target
from bench.figures import Figures
from bench.load import (
    Group,
    Measurement,
    Sample,
    Timing,
    Window,
    arrivals,
    closed_loop,
    open_loop,
    percentile,
)
from bench.plan import BULK_TEXTS, Plan
from bench.wire import Request
from tests.fakes import FakeModel

T = TypeVar("T")

SHORT = Timing(seconds=0.3, burn_in_s=0.05)
ASK = Request("POST", "/vectorize", b"{}")
WINDOW = Window(begin_s=10, end_s=20, client_cpu=0.5)


class FakeServer(ThreadingHTTPServer):
    """Answers each POST with the next status of a list and remembers what it was sent."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer: Any, statuses: list[int], delay_s: float, ending: str) -> None:
        super().__init__(("127.0.0.1", 0), FakeHandler)
        self.content = json.dumps(answer).encode()
        self.statuses = itertools.cycle(statuses)
        self.delay_s = delay_s
        self.ending = ending
        self.seen: list[tuple[str, bytes]] = []

    @property
    def target(self) -> Target:
        return Target("127.0.0.1", self.server_port)

    def handle_error(self, *_: Any) -> None:
        """A client that has seen enough hangs up."""


class FakeHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: FakeServer

    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, body))
        time.sleep(self.server.delay_s)
        self.send_response(next(self.server.statuses))
        getattr(self, self.server.ending)(self.server.content)

    def whole(self, content: bytes) -> None:
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def in_chunks(self, content: bytes) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in (content[:3], content[3:]):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def broken_off(self, content: bytes) -> None:
        self.send_header("Content-Length", str(len(content) + 1))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(
    answer: Any = None,
    statuses: tuple[int, ...] = (200,),
    delay_s: float = 0.0,
    ending: str = "whole",
) -> Iterator[FakeServer]:
    with FakeServer(answer, list(statuses), delay_s, ending) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def result_of(load: Awaitable[T]) -> T:
    async def wait() -> T:
        return await load

    with run._runner() as runner:
        return runner.run(wait())


def test_a_closed_loop_counts_what_the_server_answered() -> None:
    with serving(delay_s=0.02) as server:
        (seen,) = result_of(closed_loop(server.target, [Group(lambda: ASK, 4)], SHORT))

    in_window = seen.rate_per_s * SHORT.seconds
    assert 0 < in_window <= len(server.seen)
    assert abs(in_window - len(seen.latencies_ms)) <= 4  # those that cross the window's ends
    assert min(seen.latencies_ms) >= 20
    assert 4 / 0.02 >= seen.rate_per_s > 20
    assert seen.errors == {}
    assert seen.client_cpu > 0


def test_groups_run_side_by_side_and_are_reported_apart() -> None:
    slow, fast = Request("POST", "/slow", b"{}"), Request("GET", "/ready")
    groups = [Group(lambda: slow, 2), Group(lambda: fast, 1, pause_s=0.01)]
    with serving(delay_s=0.1) as server:
        imports, probes = result_of(closed_loop(server.target, groups, SHORT))

    assert percentile(imports.latencies_ms, 50) >= 100
    assert probes.rate_per_s > imports.rate_per_s
    assert {path for path, _ in server.seen} == {"/slow"}


def test_errors_are_counted_and_are_no_throughput() -> None:
    with serving(statuses=(200, 500)) as server:
        (seen,) = result_of(closed_loop(server.target, [Group(lambda: ASK, 1)], SHORT))

    assert seen.errors == {"HTTP 500": len(server.seen) // 2}
    assert len(seen.latencies_ms) <= math.ceil(len(server.seen) / 2)


def test_a_refused_connection_is_an_error_and_ends_no_run() -> None:
    with serving() as server:
        target = server.target
    (seen,) = result_of(closed_loop(target, [Group(lambda: ASK, 2)], SHORT))

    assert seen.rate_per_s == 0
    assert set(seen.errors) == {"ConnectionRefusedError"}
    assert 2 <= seen.errors["ConnectionRefusedError"] < 50


def test_an_answer_that_ends_early_is_an_error() -> None:
    with serving("vector", ending="broken_off") as server:
        (seen,) = result_of(closed_loop(server.target, [Group(lambda: ASK, 1)], SHORT))

    assert seen.errors == {"ConnectionResetError": len(server.seen)}


def test_an_answer_in_chunks_is_read_to_its_end() -> None:
    async def ask_twice(target: Target) -> list[bytes]:
        connection = Connection(target)
        answers = [(await connection.ask(ASK)).body for _ in range(2)]
        connection.close()
        return answers

    with serving("vectors", ending="in_chunks") as server:
        assert result_of(ask_twice(server.target)) == [b'"vectors"'] * 2


def test_an_open_loop_does_not_wait_for_answers() -> None:
    with serving(delay_s=0.2) as server:
        seen = result_of(open_loop(server.target, lambda: ASK, 50, SHORT, seed=3))

    due = list(arrivals(50, SHORT.burn_in_s + SHORT.seconds, seed=3))
    assert len(server.seen) == len(due)
    assert seen.errors == {}
    assert len(seen.latencies_ms) > 5  # one connection could have asked twice
    assert min(seen.latencies_ms) >= 200


def test_arrivals_are_random_in_time_and_the_same_every_run() -> None:
    due = list(arrivals(100, 50, seed=1))

    assert due == list(arrivals(100, 50, seed=1)) != list(arrivals(100, 50, seed=2))
    assert due == sorted(due)
    assert due[0] > 0
    assert due[-1] < 50
    assert len(due) == pytest.approx(5000, rel=0.05)
    assert np.std(np.diff(due)) == pytest.approx(1 / 100, rel=0.1)


def test_a_request_counts_by_the_share_of_it_that_lies_in_the_window() -> None:
    samples = [Sample(8, 12), Sample(12, 16), Sample(16, 20), Sample(19, 23), Sample(21, 22)]
    seen = Measurement.of(samples, WINDOW)

    assert seen.rate_per_s == pytest.approx((0.5 + 1 + 1 + 0.25) / 10)
    assert seen.latencies_ms == (4000, 4000, 4000)


def test_errors_outside_the_window_count_too() -> None:
    seen = Measurement.of([Sample(1, 2, "HTTP 503"), Sample(11, 12)], WINDOW)

    assert seen.errors == {"HTTP 503": 1}


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([5.0], 50, 5.0),
        ([3.0, 1.0, 2.0], 50, 2.0),
        ([float(n) for n in range(1, 101)], 95, 95.0),
        ([float(n) for n in range(1, 101)], 99, 99.0),
        ([1.0, 2.0], 99, 2.0),
    ],
)
def test_a_percentile_is_one_of_the_values(
    values: list[float], percent: float, expected: float
) -> None:
    assert percentile(values, percent) == expected


def test_a_percentile_of_nothing_is_no_number() -> None:
    assert math.isnan(percentile([], 50))


def test_images_of_two_requests_differ_in_their_bytes_and_not_in_their_pixels() -> None:
    pool = len(inputs.jpegs(*inputs.SMALL))
    first, again = (base64.b64decode(inputs.image_b64(inputs.SMALL, n)) for n in (1, 1 + pool))

    assert first != again
    assert 80_000 <= len(first) == len(again) <= 100_000
    images = [Image.open(io.BytesIO(file)) for file in (first, again)]
    assert images[0].size == inputs.SMALL
    assert images[0].tobytes() == images[1].tobytes()


def test_texts_of_many_requests_differ() -> None:
    texts = {inputs.text(number) for number in range(10**9, 10**9 + 20_000)}

    assert len(texts) == 20_000
    assert {len(text.split()) for text in texts} == {10}


REFERENCE_ANSWER = {"textVectors": [[1.0, 2.0]], "imageVectors": []}
OPENAI_ANSWER = {"data": [{"index": 0, "embedding": [1.0, 2.0]}]}
TINY = Plan("openai", clients=(2,), seconds=0.1, rounds=1, sizes=())
OTHER_SIZE = (64, 48)


def image_of(encoded: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)))


def test_the_reference_format_is_what_weaviate_sends() -> None:
    with serving(REFERENCE_ANSWER) as server:
        run.run_there(server.target, wire.reference(), TINY)

    bodies = [json.loads(body) for path, body in server.seen if path == "/vectorize"]
    assert len(bodies) == len(server.seen)
    images = [image for body in bodies for image in body.get("images", [])]
    texts = [text for body in bodies for text in body.get("texts", [])]
    assert image_of(images[0]).size == inputs.SMALL
    assert len(texts) == len(set(texts))
    assert {len(body.get("images", [])) for body in bodies} == {0, 1}
    assert {len(body.get("texts", [])) for body in bodies} == {0, 1, BULK_TEXTS}


class FixedBareModel(bare.BareModel):
    """Answers without a process: twice as fast in batches of 8, and by one thread."""

    def __init__(self) -> None:
        self.loops: list[Loop] = []

    def run(self, loop: Loop) -> LoopResult:
        self.loops.append(loop)
        return LoopResult((20.0 if loop.batch == 8 else 10.0) / loop.threads, 1.0)


def test_the_bare_loop_stands_around_each_load_at_its_best_batch() -> None:
    figures, plan = Figures(), replace(TINY, sizes=(OTHER_SIZE,))
    model, torch_model = FixedBareModel(), FixedBareModel()
    with serving(REFERENCE_ANSWER) as server, run._runner() as runner:
        beside = run.Beside(model, torch_model, plan, figures)
        one = run.Run(server.target, wire.reference(), plan, figures, runner, beside)
        one.rounds(parse_only=server.target)
        one.larger_images()

    assert [len(runs) for runs in figures.loops["bare/images"]] == [2]
    assert figures.settings["bare/images"] == {"batch": 8, "decode_threads": 1}
    assert figures.loop_rate("one/texts") == 10
    assert {(loop.batch, loop.threads) for loop in torch_model.loops} == {(1, 1)}
    assert {"images/2", "texts/2", "open", "repeats", "parse only"} < figures.loads.keys()
    assert figures.loop_ratio("64x48/16", "bare/64x48") > 0
    assert {tuple(loop.size) for loop in model.loops} == {inputs.SMALL, OTHER_SIZE}
    assert "NOT STEADY" not in report.text(figures, plan)


def test_a_model_of_texts_is_sent_texts_alone() -> None:
    figures, plan = Figures(), replace(TINY, family="minilm")
    model, torch_model = FixedBareModel(), FixedBareModel()
    with serving({"vector": [1.0, 2.0]}) as server, run._runner() as runner:
        beside = run.Beside(model, torch_model, plan, figures)
        api = wire.text_reference()
        one = run.TextRun(server.target, api, plan, figures, runner, beside)
        one.rounds(parse_only=None)
        one.larger_images()

    assert {path for path, _ in server.seen} == {"/vectors"}
    bodies = [json.loads(body) for _, body in server.seen]
    tasks = {body["config"]["task_type"] for body in bodies}
    assert tasks == {"passage", "query"}
    assert {body["text"].count(".") for body in bodies} == {0, inputs.SENTENCES}
    assert {loop.is_apart for loop in torch_model.loops} == {True}
    assert {loop.batch for loop in torch_model.loops} == {1}
    assert figures.loop_rate("lone/passages") == 10
    reached = {goal.name for goal in report.goals(figures, plan) if goal.bound}
    assert "texts, 16 clients / bare loop" not in reached  # two clients were asked for
    assert "a search during an import, p95 / a pass" in reached


def test_sentences_of_passages_differ() -> None:
    sentences = [one for number in range(500) for one in inputs.passage(number).split(". ")]

    assert len(set(sentences)) == len(sentences) == 500 * inputs.SENTENCES


def test_the_openai_format_has_images_as_data_uris() -> None:
    with serving(OPENAI_ANSWER) as server:
        target = server.target._replace(base_path="/v1")
        run.run_there(target, wire.openai("my/model"), TINY)

    assert {path for path, _ in server.seen} == {"/v1/embeddings"}
    bodies = [json.loads(body) for _, body in server.seen]
    assert {body["model"] for body in bodies} == {"my/model"}
    image = next(body for body in bodies if body["modality"] == "image")
    text = next(body for body in bodies if body["modality"] == "text")
    assert image_of(image["input"][0].removeprefix("data:image/jpeg;base64,")).format == "JPEG"
    assert len(text["input"][0].split()) == 10


def test_a_service_that_answers_no_vector_is_not_measured() -> None:
    with (
        serving({"textVectors": [], "imageVectors": []}) as server,
        pytest.raises(RuntimeError, match="an image with one vector"),
    ):
        run.run_there(server.target, wire.reference(), TINY)


def test_a_failed_request_shows_in_table_record_and_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command_line, "_plan", lambda _options: TINY)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    record = tmp_path / "record.json"
    with serving(REFERENCE_ANSWER, statuses=(200, 200, 200, 200, 503)) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        status = command_line.main(["--url", url, "--json", str(record)])

    written = json.loads(record.read_text())
    assert status == 1
    assert written["loads"]["images/2"]["errors"]["HTTP 503"] > 0
    assert written["machine"]["cpu"]["cores"] > 0
    assert written["plan"]["seconds"] == TINY.seconds
    assert "HTTP 503" in capsys.readouterr().out


def test_the_command_line_makes_the_plan() -> None:
    def plan(*arguments: str) -> Plan:
        return command_line._plan(command_line._parse(arguments))

    assert plan() == Plan("openai")
    assert plan("--clients", "2", "8", "--family", "siglip2").clients == (2, 8)
    assert plan("--quick", "--rate", "9").rate_per_s == 9


def test_a_ratio_is_taken_within_each_round() -> None:
    figures = Figures()
    for speed in (1.0, 2.0, 9.0):  # of the machine, which drifts
        figures.add_loop("bare/images", LoopResult(10 * speed, 1), LoopResult(30 * speed, 1))
        figures.add_load("images/16", Measurement(18 * speed, (50.0, 70.0), {}, 0.1))
        figures.add_load("texts/16", Measurement(speed, (), {"HTTP 500": 2}, 0.1))

    assert figures.loop_ratio("images/16", "bare/images") == pytest.approx(0.9)
    assert figures.rate("images/16") == 36
    assert figures.latency_ms("images/16", 95) == 70
    assert figures.errors("texts/16") == {"HTTP 500": 6}
    goals = {goal.name: goal for goal in report.goals(figures, TINY)}
    assert goals["images, 16 clients / bare loop"].verdict == "met"
    assert "images, 4 clients / bare loop" not in goals  # not measured
    assert "6 HTTP 500" in report.text(figures, TINY)


def test_a_machine_that_was_not_idle_is_reported() -> None:
    steady, drifting = Figures(), Figures()
    steady.add_loop("bare/images", LoopResult(10, 1), LoopResult(11, 1))
    drifting.add_loop("bare/images", LoopResult(10, 1), LoopResult(15, 1))

    assert "NOT STEADY" not in report.text(steady, TINY)
    assert "changed by 50%" in report.text(drifting, TINY)


def test_the_bare_loop_computes_whole_batches() -> None:
    backend = FakeModel()
    model = BareModel(backend.model)
    images = model.run(Loop("images", batch=3, seconds=0.02, threads=2))
    texts = model.run(Loop("texts", batch=5, seconds=0.02))

    assert set(backend.image_batches) == {3}
    assert len({text for batch in backend.text_batches for text in batch}) >= 10
    assert images.rate_per_s == pytest.approx(3e3 / images.median_ms, rel=0.9)
    assert texts.rate_per_s > 0
    model.run(Loop("passages", batch=1, seconds=0.02, is_apart=True))
    assert backend.text_batches[-1][0].count(".") == inputs.SENTENCES  # it knows no sentences


def test_a_server_is_started_measured_and_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LOGS", tmp_path)
    with service.running("parse_only", run._PARSE_ONLY) as server:
        (seen,) = result_of(closed_loop(server.target, [Group(lambda: ASK, 2)], SHORT))
        watch = service.MemoryWatch(server.pid)
        memory = watch.close()

    assert seen.errors == {}
    assert seen.rate_per_s > 10
    assert 0 < server.start_s < 60
    assert 0 < memory.file_mb < memory.largest_mb <= memory.peak_mb
    assert not Path(f"/proc/{server.pid}").exists()


def test_a_server_that_cannot_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LOGS", tmp_path)
    command = (sys.executable, "-c", "raise SystemExit('no model')")
    with (
        pytest.raises(RuntimeError, match="no model"),
        service.running("failing", command),
    ):
        pass

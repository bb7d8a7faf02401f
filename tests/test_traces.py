"""Traces: the id of a client's in the log, and the spans that OpenTelemetry gets."""

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from config import Settings
from tests.image_files import base64_of, plain
from tests.service import ROOT, run_to_end, running
from web.record import trace_id_of

DEMO = ROOT / "demo/models"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize(
    ("given", "trace_id"),
    [
        (TRACEPARENT, TRACE),
        (f"cc-{TRACE}-{PARENT}-01-what-comes-later", TRACE),
        ("", ""),
        (f"00-{TRACE}-{PARENT}", ""),
        (f"00-{TRACE}-{PARENT}-01-more", ""),  # version 00 has nothing more
        (f"ff-{TRACE}-{PARENT}-01", ""),
        (f"00-{'0' * 32}-{PARENT}-01", ""),
        (f"00-{TRACE}-{'0' * 16}-01", ""),
        (f"00-{TRACE.upper()}-{PARENT}-01", ""),
        (f"00-{TRACE}-{PARENT}-01\x1b[31m", ""),
    ],
)
def test_the_id_of_a_trace_is_read_where_it_is_one(given: str, trace_id: str) -> None:
    headers = [(b"host", b"a"), (b"traceparent", given.encode())]

    assert trace_id_of(headers) == trace_id


def json_lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_a_line_of_the_json_log_has_all_fields_and_no_colours(tmp_path: Path) -> None:
    log = tmp_path / "log"
    body = {"texts": ["a", "b"], "images": [base64_of(plain()), "?"]}
    headers = {"traceparent": TRACEPARENT, "X-Request-ID": "mine"}
    with running(log, MODELS_DIR=DEMO, LOG_FORMAT="json", LOG_LEVEL="debug") as service:
        service.request("POST", "//vectorize/", body, headers)
        service.request("GET", "/\x1b%1b[31m".replace("\x1b", ""))
    lines = json_lines(log)

    (line,) = [one for one in lines if one.get("request_id") == "mine"]
    assert 0 < line.pop("duration_ms") < 60_000
    assert line.pop("message").endswith(
        f"request mine, trace {TRACE}: images[1]: not base64; expected the base64 of an image file"
    )
    assert line.pop("timestamp")
    assert line == {
        "levelname": "WARNING",
        "name": "web.logs",
        "method": "POST",
        "path": "/vectorize",
        "endpoint": "/vectorize",
        "status": 422,
        "texts": 2,
        "images": 2,
        "pairs": 0,
        "reason": "base64",
        "request_id": "mine",
        "trace_id": TRACE,
    }
    assert "\\u001b" not in log.read_text()
    assert "color_message" not in log.read_text()
    (unknown,) = [one for one in lines if one.get("status") == 404]
    assert unknown["path"] == r"/\x1b[31m"
    assert (unknown["endpoint"], unknown["reason"], unknown["trace_id"]) == ("", "route", "")


class Span(NamedTuple):
    name: str
    trace: str
    id: str
    parent: str
    began_ns: int
    ended_ns: int
    attributes: dict[str, Any]


class Collector:
    """Takes what OTLP sends, as Jaeger and others do.

    Attributes:
        spans: those that came.
        resource: what they say of the service.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resource: dict[str, Any] = {}

    def take(self, content: bytes) -> None:
        trace = import_module("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
        for sent in trace.ExportTraceServiceRequest.FromString(content).resource_spans:
            self.resource = self._attributes(sent.resource)
            for span in (span for scope in sent.scope_spans for span in scope.spans):
                self.spans.append(
                    Span(
                        span.name,
                        trace=span.trace_id.hex(),
                        id=span.span_id.hex(),
                        parent=span.parent_span_id.hex(),
                        began_ns=span.start_time_unix_nano,
                        ended_ns=span.end_time_unix_nano,
                        attributes=self._attributes(span),
                    )
                )

    @staticmethod
    def _attributes(of: Any) -> dict[str, Any]:
        return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in of.attributes}


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                collector.take(content)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.skipif(
    not find_spec("opentelemetry.exporter"), reason="requirements-dev.txt has the exporter"
)
def test_each_stage_of_a_request_is_a_span_within_that_of_its_client(tmp_path: Path) -> None:
    log = tmp_path / "log"
    texts = {"texts": ["a red circle"], "images": [base64_of(plain())]}
    with collecting() as (collector, url):
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_SERVICE_NAME": "pictures"}
        settings |= {"OTEL_EXPORTER_OTLP_COMPRESSION": "none", "LOG_LEVEL": "debug"}
        with running(log, MODELS_DIR=DEMO, LOG_FORMAT="json", **settings) as service:
            headers = {"traceparent": TRACEPARENT}
            assert service.request("POST", "/vectorize", texts, headers)[0] == 200
            assert service.request("POST", "/vectorize", {"texts": 1})[0] == 422
            assert service.request("GET", "/meta")[0] == 200
    # What was not sent yet is sent before the process ends.
    asked, refused = (span for span in collector.spans if span.attributes)
    stages = [span for span in collector.spans if span.parent == asked.id]

    assert (collector.resource["service.name"], asked.name) == ("pictures", "POST /vectorize")
    assert (asked.trace, asked.parent) == (TRACE, PARENT)
    assert asked.attributes["http.response.status_code"] == 200
    assert {"read", "queue", "encode", "serialize"} < {span.name for span in stages}
    assert {"tokenize", "preprocess"} & {span.name for span in stages}
    in_order = sorted(stages, key=lambda span: span.began_ns)
    for one, after in itertools.pairwise(in_order):
        assert asked.began_ns <= one.began_ns <= one.ended_ns <= after.began_ns + 1000
    assert in_order[-1].ended_ns <= asked.ended_ns
    assert refused.attributes["error.type"] == "body"
    # Without one of the client's it is in a trace of its own, which the log names.
    (line,) = [one for one in json_lines(log) if one.get("status") == 422]
    assert refused.trace == line["trace_id"] != TRACE


OFF = """
import sys
from fastapi.testclient import TestClient
from tests.asgi import app_of
from tests.fakes import FakeModel

with TestClient(app_of(FakeModel())) as client:
    assert client.post("/vectorize", json={"texts": ["a"]}).status_code == 200
# FastAPI imports the interface of OpenTelemetry, which does nothing by itself.
sys.exit("opentelemetry.sdk" in sys.modules or "web.tracing" in sys.modules)
"""


def test_a_service_without_traces_imports_nothing_of_them() -> None:
    answer = subprocess.run([sys.executable, "-c", OFF], cwd=ROOT, check=False)

    assert answer.returncode == 0


@pytest.mark.parametrize(
    ("general", "of_traces", "exporter"),
    [
        ("http/protobuf", "", "otlp_proto_http"),
        ("grpc", "", "otlp_proto_grpc"),
        ("http/protobuf", "grpc", "otlp_proto_grpc"),
        ("grpc", "http/protobuf", "otlp_proto_http"),
    ],
)
def test_the_protocol_of_traces_goes_before_the_general_one(
    general: str, of_traces: str, exporter: str
) -> None:
    settings = Settings(
        otel_exporter_otlp_endpoint="http://collector:4317",
        otel_exporter_otlp_protocol=general,
        otel_exporter_otlp_traces_protocol=of_traces,
    )

    assert settings.trace_exporters == (exporter,)


WITHOUT_LIBRARY = "import sys; sys.modules['opentelemetry.sdk'] = None; import app; app.main()"


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9", WITHOUT_LIBRARY),
        ("OTEL_TRACES_EXPORTER", "carrier-pigeon", "import app; app.main()"),
    ],
)
def test_a_start_that_lacks_what_traces_need_says_so(name: str, value: str, code: str) -> None:
    answer = run_to_end((sys.executable, "-c", code), MODELS_DIR=DEMO, PORT=0, **{name: value})

    assert answer.returncode == 1
    assert "requirements-tracing.txt" in answer.stderr
    assert "Traceback" not in answer.stderr

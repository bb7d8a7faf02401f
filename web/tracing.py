"""OpenTelemetry traces: a span for each request of an endpoint, with a span for each stage.

Spans are created from a request's record at its end. This module is imported only if tracing is on:
OpenTelemetry's library is optional.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points

from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode, format_trace_id, set_span_in_context

from config import NAME, VERSION
from errors import ConfigurationError
from inference.timings import ItemTimes, RequestTimes, Stage
from web.record import MODALITIES, RequestRecord


class Tracing:
    """Sends the spans of requests to exporters, in a thread of its own.

    The variables `OTEL_...` configure it: address and headers of the exporter, sampler, name of the
    service.

    Args:
        exporters: names of exporters, such as `otlp_proto_http`.

    Raises:
        ConfigurationError: an exporter is not installed.
    """

    def __init__(self, exporters: Sequence[str]) -> None:
        own = Resource({"service.name": NAME, "service.version": VERSION})
        self._provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()))
        for name in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
        self._tracer = self._provider.get_tracer(NAME, VERSION)

    def observe_request(self, record: RequestRecord) -> None:
        """Create the spans of an answered request, and set the trace's id in its record."""
        times = record.context.times
        ended_s = times.arrived_s + record.total_s
        since_1970_ns = time.time_ns() - time.perf_counter_ns()

        def moment_ns(seconds: float) -> int:
            return since_1970_ns + round(1e9 * seconds)

        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in record.headers
        }
        span = self._tracer.start_span(
            f"{record.method} {record.endpoint}",
            extract(headers),
            SpanKind.SERVER,
            {
                "http.request.method": record.method,
                "http.route": record.endpoint,
                "url.path": record.path,
                "http.response.status_code": record.status,
                "inference.request_id": record.request_id,
                **({"inference.model": record.model} if record.model else {}),
                **{f"inference.{name}s": record.items[name] for name in MODALITIES},
                **({"error.type": record.refused} if record.refused else {}),
            },
            start_time=moment_ns(times.arrived_s),
        )
        if record.status >= 500:
            span.set_status(Status(StatusCode.ERROR, record.message))
        within = set_span_in_context(span)
        for stage, from_s, to_s in stage_spans(times, ended_s):
            one = self._tracer.start_span(stage, within, start_time=moment_ns(from_s))
            one.end(moment_ns(to_s))
        span.end(moment_ns(ended_s))
        record.trace_id = format_trace_id(span.get_span_context().trace_id)

    def close(self) -> None:
        """Send the remaining spans, and stop the exporters."""
        self._provider.shutdown()


def _exporter(name: str) -> SpanExporter:
    for found in entry_points(group="opentelemetry_traces_exporter", name=name):
        exporter: SpanExporter = found.load()()
        return exporter
    raise ConfigurationError(
        f"OTEL_TRACES_EXPORTER: no exporter {name} is installed; the exporter of OTLP by HTTP is "
        "in requirements-tracing.txt"
    )


def stage_spans(times: RequestTimes, ended_s: float) -> Iterator[tuple[Stage, float, float]]:
    """Yield the stages of a request, as `RequestTimes.stages` does, with begin and end in seconds.

    The stage `queue` comes several times: before the preprocessing of the slowest item, and before
    its batch.

    Args:
        times: timestamps of the request.
        ended_s: timestamp of the request's end; the request may have failed in any stage.
    """
    if times.read_began_s:
        yield "read", times.read_began_s, times.read_ended_s or ended_s
    if times.embed_began_s:
        waits_from_s = times.embed_began_s
        embed_ended_s = times.embed_ended_s or ended_s
        slowest = times.slowest
        for stage, from_s, to_s in _of_item(slowest) if slowest else ():
            if from_s > waits_from_s:
                yield "queue", waits_from_s, from_s
            yield stage, from_s, to_s
            waits_from_s = to_s
        if embed_ended_s > waits_from_s:
            yield "queue", waits_from_s, embed_ended_s
        if times.serialize_s:
            yield "serialize", embed_ended_s, embed_ended_s + times.serialize_s


def _of_item(times: ItemTimes) -> Iterator[tuple[Stage, float, float]]:
    if times.decoded_s:
        yield "decode", times.created_s, times.created_s + times.decoded_s
    if times.opened_s:
        yield "decode", times.preprocess_began_s, times.opened_s
    if times.preprocessed_s:
        stage: Stage = "preprocess" if times.opened_s else "tokenize"
        yield stage, times.opened_s or times.preprocess_began_s, times.preprocessed_s
    if times.batch_ended_s:
        yield "encode", times.batch_began_s, times.batch_ended_s

"""OpenTelemetry's middleware around the application: what it calls the routes that were asked."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.asgi import app_of
from tests.fakes import FakeModel


def targets_of(reader: InMemoryMetricReader) -> set[Any]:
    """The routes by which durations are counted."""
    data = reader.get_metrics_data()
    assert data
    return {
        point.attributes.get("http.target")
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "http.server.duration"
        for point in metric.data.data_points
        if point.attributes
    }


@pytest.mark.parametrize("path", ["/vectorize", "//vectorize", "/vectorize/"])
def test_a_request_is_counted_under_the_name_of_its_route(path: str) -> None:
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(), MeterProvider([reader])
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    app = app_of(FakeModel())
    app.add_middleware(OpenTelemetryMiddleware, tracer_provider=tracers, meter_provider=meters)
    with TestClient(app) as client:
        answers = [
            client.post(f"http://testserver{path}", json={"texts": body}) for body in (["a"], 1)
        ]

    assert [answer.status_code for answer in answers] == [200, 422]
    assert targets_of(reader) == {"/vectorize"}
    statuses = [
        span.attributes.get("http.status_code")
        for span in spans.get_finished_spans()
        if span.attributes
    ]
    assert {200, 422} <= set(statuses)

"""The service: the objects that serve requests once the model is loaded, on `app.state`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import Response
from starlette.datastructures import State
from starlette.types import Scope

from config import VERSION, Settings
from errors import ConfigurationError, UnhealthyError
from inference.observers import Observers
from inference.tasks import background
from vectorizer import Vectorizer
from web.auth import TokenAuth
from web.body import BodyReader
from web.endpoints.base import Endpoint
from web.load_log import LoadLog
from web.metrics import Metrics
from web.page import page_response
from web.record import RequestRecord

if TYPE_CHECKING:
    from web.tracing import Tracing


@dataclass(frozen=True, slots=True)
class Service:
    """The objects that serve requests; the application's lifespan creates them.

    Attributes:
        settings: the settings, for their limits.
        vectorizer: the loaded model.
        started_at: time at which the service was ready, in seconds since 1970.
        endpoints: the endpoints, by the first path of each.
        body_reader: reads bodies within bounds.
        access: checks tokens.
        metrics: the Prometheus metrics.
        on_complete: called with the record of each request that an endpoint answered.
        page: the response with the debug page; None if the page is turned off.
    """

    settings: Settings
    vectorizer: Vectorizer
    started_at: int
    endpoints: Mapping[str, Endpoint[Any]]
    body_reader: BodyReader
    access: TokenAuth
    metrics: Metrics
    on_complete: Callable[[RequestRecord], None]
    page: Response | None


def get_service(scope: Scope) -> Service:
    """Return the service of a request.

    Raises:
        UnhealthyError: the lifespan has not begun, or has ended.
    """
    service: Service | None = scope["state"]["service"]  # set by the middleware
    if service is None:
        raise UnhealthyError(
            "not started: the application's lifespan does not run; one that mounts it enters "
            "app.router.lifespan_context(app)"
        )
    return service


@asynccontextmanager
async def serving(
    state: State,
    vectorizer: Vectorizer,
    settings: Settings,
    endpoints: Sequence[type[Endpoint[Any]]],
    access: TokenAuth,
    tracing: Tracing | None = None,
) -> AsyncIterator[None]:
    """Create the service as `state.service`, and observe batches for metrics and log.

    Args:
        state: the application's state.
        vectorizer: the loaded model, which the caller closes.
        settings: the settings.
        endpoints: the endpoints.
        access: checks tokens.
        tracing: sends traces; None if tracing is off.

    Raises:
        ConfigurationError: a setting does not fit the model.
    """
    body_reader = BodyReader(settings)
    requests: Observers[[RequestRecord]] = Observers()
    metrics = Metrics(
        vectorizer,
        VERSION,
        queue_bytes=lambda: body_reader.held_bytes,
        observer_failures=lambda: requests.failures + vectorizer.observer_failures,
    )
    load_log = LoadLog(lambda: vectorizer.queue_items)
    for observer in (metrics, load_log):
        vectorizer.observe_batches(observer.observe_batch)
        requests.add(observer.observe_request)
    if tracing:
        requests.add(tracing.observe_request)
    service = Service(
        settings,
        vectorizer,
        int(time.time()),
        {kind.paths[0]: kind(settings, vectorizer.info) for kind in endpoints},
        body_reader,
        access,
        metrics,
        requests,
        page_response() if settings.debug_page else None,
    )
    tasks = [background(load_log.run(), name="load-log")]
    if settings.authentication_allowed_tokens_file:
        tasks.append(background(access.follow_file(), name="tokens-file"))
    state.service = service
    try:
        yield
    finally:
        del state.service
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def make_tracing(settings: Settings) -> Tracing | None:
    """Return the object that sends traces; None if tracing is off.

    Raises:
        ConfigurationError: tracing is on, and its library or exporter is not installed.
    """
    if not settings.trace_exporters:
        return None
    try:
        from web.tracing import Tracing
    except ImportError as error:
        raise ConfigurationError(
            "OTEL_...: traces are wanted, and OpenTelemetry is not installed: "
            "pip install -r requirements-tracing.txt"
        ) from error
    return Tracing(settings.trace_exporters)

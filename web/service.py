"""The service: the objects that serve requests once the models are loaded, on `app.state`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import Response
from starlette.datastructures import State
from starlette.types import Scope

from config import VERSION, Settings
from errors import ConfigurationError, UnhealthyError
from inference.observers import Observers
from inference.tasks import background
from on_demand import OnDemand, Unloading
from registry import Registry, naming
from vectorizer import Vectorizer
from web.auth import TokenAuth
from web.body import BodyReader
from web.endpoints.base import Endpoint
from web.load_log import LoadLog
from web.metrics import LoadMetrics, Metrics
from web.models import LoadedModel, Models, ServedModel, kind_of
from web.page import page_response
from web.record import RequestRecord
from web.states import States

if TYPE_CHECKING:
    from web.tracing import Tracing


@dataclass(slots=True)
class Service:
    """The objects that serve requests; the application's lifespan creates them.

    Attributes:
        models: all models, loaded or not, with the endpoints of each.
        body_reader: reads bodies within bounds.
        access: checks tokens.
        metrics: the Prometheus metrics.
        on_complete: called with the record of each request that an endpoint answered.
        page: the response with the debug page; None if the page is turned off.
        on_demand: loads and unloads the models; None if all are loaded at start.
        draining: whether the service shuts down.
    """

    models: Models
    body_reader: BodyReader
    access: TokenAuth
    metrics: Metrics
    on_complete: Callable[[RequestRecord], None]
    page: Response | None
    on_demand: OnDemand | None = None
    draining: bool = False

    def drain(self) -> None:
        """Shut down: the readiness probe fails, answers close connections, and no load begins."""
        self.draining = True
        if self.on_demand:
            self.on_demand.drain()


def get_service(scope: Scope) -> Service:
    """Return the service of a request.

    Raises:
        UnhealthyError: the lifespan has not begun, or has ended.
    """
    service: Service | None = scope["state"]["service"]  # set by the middleware
    if service is None:
        raise UnhealthyError(
            "not started: the application's lifespan does not run; an application that mounts it "
            "must enter app.router.lifespan_context(app)"
        )
    return service


@asynccontextmanager
async def serving(
    state: State,
    registry: Registry,
    settings: Settings,
    endpoints: Sequence[type[Endpoint[Any]]],
    access: TokenAuth,
    tracing: Tracing | None = None,
) -> AsyncIterator[Service]:
    """Create the service as `state.service`, and observe batches for metrics and log.

    Args:
        state: the application's state.
        registry: the models by name, which the caller closes.
        settings: the settings.
        endpoints: the endpoints.
        access: checks tokens.
        tracing: sends traces; None if tracing is off.

    Raises:
        ConfigurationError: a setting does not fit a model.
    """
    body_reader = BodyReader(settings)
    requests: Observers[[RequestRecord]] = Observers()
    names = list(registry.settings)
    metrics = Metrics(names, States(names, registry.loaded, VERSION, body_reader, requests))
    requests.add(metrics.observe_request)
    load_logs = {name: LoadLog(partial(_queue_items, registry, name), name) for name in names}

    def log_load(record: RequestRecord) -> None:
        if log := load_logs.get(record.model):  # else it reached none of several models
            log.observe_request(record)

    requests.add(log_load)
    if tracing:
        requests.add(tracing.observe_request)
    models = {name: _serve(registry, name) for name in names}

    def serve_loaded(name: str, vectorizer: Vectorizer) -> None:
        metrics.observe_model(name, vectorizer)
        vectorizer.observe_batches(load_logs[name].observe_batch)
        models[name].info = vectorizer.info
        own, info = vectorizer.settings, vectorizer.info
        with naming(name):
            served = {kind.paths[0]: kind(own, info) for kind in endpoints}
        models[name].loaded = LoadedModel(vectorizer, served)

    for name, vectorizer in registry.loaded.items():
        serve_loaded(name, vectorizer)
    if registry.on_demand:
        loads = LoadMetrics(names, metrics)
        _follow(registry.on_demand, models, serve_loaded, loads)
    service = Service(
        Models(list(models.values()), endpoints, registry.defaults, settings.model_aliases),
        body_reader,
        access,
        metrics,
        requests,
        page_response() if settings.debug_page else None,
        registry.on_demand,
    )
    tasks = [background(one.run(), name="load-log") for one in load_logs.values()]
    if settings.authentication_allowed_tokens_file:
        tasks.append(background(access.follow_file(), name="tokens-file"))
    state.service = service
    try:
        yield service
    finally:
        del state.service
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _follow(
    on_demand: OnDemand,
    models: Mapping[str, ServedModel],
    serve_loaded: Callable[[str, Vectorizer], None],
    loads: LoadMetrics,
) -> None:
    """Serve models from the time when they are loaded, until they are unloaded; count both."""

    def serve(name: str, vectorizer: Vectorizer, seconds: float) -> None:
        serve_loaded(name, vectorizer)
        loads.loaded(name, seconds)

    def forget(name: str, why: Unloading) -> None:
        models[name].loaded = None
        loads.unloaded(name, why)

    on_demand.on_load, on_demand.on_failure, on_demand.on_unload = serve, loads.failed, forget


def _serve(registry: Registry, name: str) -> ServedModel:
    kind = registry.kinds.get(name) or kind_of(registry.loaded[name].modalities)
    on_demand = registry.on_demand.models[name] if registry.on_demand else None
    return ServedModel(name, registry.settings[name], kind, int(time.time()), on_demand)


def _queue_items(registry: Registry, name: str) -> Mapping[str, int]:
    return registry.loaded[name].queue_items if name in registry.loaded else {}


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

"""What serves, once the model is loaded: the parts of the edge, put together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Response
from starlette.types import ASGIApp

from config import VERSION, Settings
from inference.observers import Observers
from inference.tasks import background
from vectorizer import Vectorizer
from web.addresses import HeadMiddleware
from web.auth import Access
from web.body import Intake
from web.endpoints.base import Endpoint
from web.errors import ErrorResponder
from web.handler import EndpointHandler, EndpointRouter
from web.load_log import LoadLog
from web.metrics import Metrics
from web.middleware import AccessMiddleware, ErrorMiddleware, RecordMiddleware
from web.page import page_response
from web.record import Record


@dataclass(frozen=True, slots=True)
class Service:
    """What the lifespan made.

    Attributes:
        settings: its limits.
        vectorizer: the model.
        started_at: when it was ready to serve, in seconds since 1970.
        metrics: what is counted.
        page: for browsers; None where it is turned off.
        app: answers every request.
    """

    settings: Settings
    vectorizer: Vectorizer
    started_at: int
    metrics: Metrics
    page: Response | None
    app: ASGIApp


@asynccontextmanager
async def serving(
    vectorizer: Vectorizer,
    settings: Settings,
    endpoints: Sequence[type[Endpoint[Any]]],
    errors: ErrorResponder,
    others: ASGIApp,
) -> AsyncIterator[Service]:
    """Put the edge together, and let the metrics and the log hear of every batch and request.

    Args:
        vectorizer: the model; who loaded it closes it.
        settings: the limits.
        endpoints: the interfaces.
        errors: answers errors.
        others: answers what no interface does.

    Raises:
        ConfigurationError: a setting does not fit the model.
    """
    intake = Intake(settings)
    requests: Observers[[Record]] = Observers()
    metrics = Metrics(
        vectorizer,
        VERSION,
        queue_bytes=lambda: intake.budget.used,
        observer_failures=lambda: requests.failures + vectorizer.observer_failures,
    )
    load_log = LoadLog(lambda: vectorizer.queue_items)
    for observer in (metrics, load_log):
        vectorizer.observe_batches(observer.observe_batch)
        requests.add(observer.observe_request)
    handlers = {
        kind.paths[0]: EndpointHandler(kind(settings, vectorizer.info), vectorizer, intake)
        for kind in endpoints
    }
    access = Access(settings.authentication_allowed_tokens)
    router = EndpointRouter(handlers, HeadMiddleware(others))
    app = RecordMiddleware(
        ErrorMiddleware(AccessMiddleware(router, access), errors),
        endpoints={path: kind.paths[0] for kind in endpoints for path in kind.paths},
        on_complete=requests,
        is_draining=lambda: vectorizer.health.draining,
    )
    task = background(load_log.run(), name="load-log")
    try:
        page = page_response() if settings.debug_page else None
        yield Service(settings, vectorizer, int(time.time()), metrics, page, app)
    finally:
        task.cancel()
        await asyncio.wait([task])

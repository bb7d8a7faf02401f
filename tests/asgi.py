"""The application through ASGI, without a socket, on a backend of the test's choice."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from app import create_app
from config import Settings
from tests.fakes import FakeModel
from vectorizer import Vectorizer
from web.endpoints import ENDPOINTS
from web.endpoints.base import Endpoint


@asynccontextmanager
async def serving(
    backend: FakeModel, endpoints: Sequence[type[Endpoint[Any]]] = ENDPOINTS, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    async def make_vectorizer(settings: Settings) -> Vectorizer:
        return Vectorizer([backend.model], settings)

    app = create_app(Settings(**settings), make_vectorizer, endpoints)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client

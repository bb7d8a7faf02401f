"""The application through ASGI, without a socket, on a backend of the test's choice."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from app import create_app
from config import Settings
from tests.fakes import FakeBackend
from vectorizer import Vectorizer


@asynccontextmanager
async def serving(backend: FakeBackend, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    async def make_vectorizer(settings: Settings) -> Vectorizer:
        return Vectorizer([backend], settings)

    app = create_app(Settings(**settings), make_vectorizer)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client

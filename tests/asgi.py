"""The application through ASGI, without a socket, on a backend of the test's choice."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from app import create_app
from config import Settings
from tests.fakes import FakeModel
from vectorizer import Resources, Vectorizer
from web.endpoints import ENDPOINTS
from web.endpoints.base import Endpoint


def app_of(
    backend: FakeModel, endpoints: Sequence[type[Endpoint[Any]]] = ENDPOINTS, **settings: Any
) -> FastAPI:
    async def make_vectorizer(settings: Settings, resources: Resources) -> Vectorizer:
        return Vectorizer([backend.model], settings, resources=resources)

    return create_app(Settings(**settings), make_vectorizer, endpoints)


@asynccontextmanager
async def serving(
    backend: FakeModel,
    endpoints: Sequence[type[Endpoint[Any]]] = ENDPOINTS,
    prefix: str = "",
    **settings: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the application, or another one in which it is mounted at a prefix."""
    async with client_of(app_of(backend, endpoints, **settings), prefix) as client:
        yield client


@asynccontextmanager
async def client_of(app: FastAPI, prefix: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """Start an application, or another one in which it is mounted at a prefix."""
    outer: ASGIApp = Starlette(routes=[Mount(prefix, app)]) if prefix else app
    transport = httpx.ASGITransport(outer, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client

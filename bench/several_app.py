"""Several models in one process, each at `/m/<name>`, for `bench.several`.

HOST=127.0.0.1 PORT=8081 MODELS='{"a": "folder"}' python -m bench.several_app
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from app import create_app
from config import Settings
from inference.device import Devices
from machine import allow_many_connections
from vectorizer import load_vectorizer
from web.logs import configure
from web.protocol import Protocol

READY = "/.well-known/ready"


def several_app(folders: dict[str, str]) -> Starlette:
    """Build the application.

    Args:
        folders: the folder of each model, by its name.
    """
    load = partial(load_vectorizer, devices=Devices())
    settings = Settings()
    apps = {
        name: create_app(settings.model_copy(update={"models_dir": Path(folder)}), load)
        for name, folder in folders.items()
    }

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as held:
            for app in apps.values():
                await held.enter_async_context(app.router.lifespan_context(app))
            yield

    async def ready(_: Request) -> Response:
        return Response(status_code=204)

    routes = [Mount(f"/m/{name}", app) for name, app in apps.items()]
    return Starlette(routes=[Route(READY, ready), *routes], lifespan=lifespan)


if __name__ == "__main__":
    configure(Settings())
    allow_many_connections()
    uvicorn.run(
        several_app(json.loads(os.environ["MODELS"])),
        host=os.environ["HOST"],
        port=int(os.environ["PORT"]),
        http=Protocol,
        ws="none",
        log_config=None,
        access_log=False,
        timeout_keep_alive=120,
    )

"""A server that only reads and parses bodies: the ceiling of answers from a cache.

HOST=127.0.0.1 PORT=8081 python -m bench.parse_only
"""

from __future__ import annotations

import os

import orjson
import uvicorn
from fastapi import FastAPI, Request, Response


def create_app() -> FastAPI:
    """Build the application, with the service's framework."""
    app = FastAPI()
    app.get("/.well-known/ready", status_code=204, response_class=Response)(_ready)
    app.post("/vectorize")(_parse)
    return app


async def _ready() -> Response:
    return Response(status_code=204)


async def _parse(request: Request) -> Response:
    orjson.loads(await request.body())
    return Response(b"{}", media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(
        create_app(),
        host=os.environ["HOST"],
        port=int(os.environ["PORT"]),
        log_level="warning",
        access_log=False,
    )

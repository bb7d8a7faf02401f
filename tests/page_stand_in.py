"""A service for the debug page's tests: it answers at once, and its ranking is known."""

import base64
import io
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image, UnidentifiedImageError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from backends.model import Modality
from tests.image_files import plain
from web.page import load_page

COLOURS = {"red": (220, 30, 30), "green": (20, 160, 60), "blue": (30, 60, 210)}
METRICS = """\
# TYPE inference_requests_total counter
inference_requests_total{code="200"} 4
inference_items_total{modality="text"} 7
inference_items_total{modality="image"} 5
inference_queue_items{modality="text"} 1
inference_queue_items{modality="image"} 2
"""


def text_vector(text: str) -> list[float]:
    return [*(float(name in text) for name in COLOURS), 0.3]


def image_vector(image_base64: str) -> list[float]:
    with Image.open(io.BytesIO(base64.b64decode(image_base64))) as image:
        pixel: Any = image.convert("RGB").getpixel((0, 0))
    return [*(channel / 255 for channel in pixel), 0.3]


async def answer_vectorize(request: Request) -> Response:
    wanted = await request.json()
    answer: dict[str, list[list[float]]] = {
        "textVectors": [text_vector(text) for text in wanted["texts"]],
        "imageVectors": [],
    }
    for number, image in enumerate(wanted.get("images", [])):
        try:
            answer["imageVectors"].append(image_vector(image))
        except UnidentifiedImageError:
            formats = "of an accepted format (JPEG, PNG, GIF)"
            return JSONResponse({"error": f"images[{number}]: not an image {formats}"}, 422)
    timing = "queue;dur=0.4, decode;dur=1.5, preprocess;dur=0.7, encode;dur=3.2, serialize;dur=0.1"
    return JSONResponse(answer, headers={"Server-Timing": timing})


def stand_in(
    samples: Path | None,
    modalities: Sequence[Modality] = ("text", "image"),
    refused: str | None = None,
) -> Starlette:
    """Serve the page as app.py does; with samples of what it reads, as the demo model's service."""

    async def answer_page(_request: Request) -> Response:
        content, policy = load_page(samples or Path("none"))
        headers = {"Content-Security-Policy": policy}
        return Response(content, headers=headers, media_type="text/html")

    async def answer_meta(_request: Request) -> Response:
        service = {
            "name": "multi2vec-clip-service",
            "version": "0.1.0",
            "model": "org/some-clip",
            "revision": "c0ffee",
            "family": "transformers-clip",
            "modalities": modalities,
            "dimensions": 4,
            "parameters": 151_277_313,
            "runtime": "openvino",
            "device": "cpu",
            "precision": "float32",
            "precision_refused": refused,
            "text_mode": "trained",
            "demo": samples is not None and "image" in modalities,
        }
        return JSONResponse({"service": service})

    async def answer_metrics(_request: Request) -> Response:
        return PlainTextResponse(METRICS) if samples else Response(status_code=404)

    async def answer_ready(_request: Request) -> Response:
        return Response(status_code=204)

    return Starlette(
        routes=[
            Route("/", answer_page),
            Route("/meta", answer_meta),
            Route("/metrics", answer_metrics),
            Route("/.well-known/ready", answer_ready),
            Route("/vectorize", answer_vectorize, methods=["POST"]),
        ]
    )


@contextmanager
def serving(app: Starlette) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listener.close()


def draw_samples(folder: Path) -> Path:
    for name, colour in COLOURS.items():
        (folder / f"{name}.png").write_bytes(plain(colour, (64, 64)))
    entries = [{"file": f"{name}.png", "caption": f"something <{name}>"} for name in COLOURS]
    (folder / "samples.json").write_text(json.dumps(entries))
    return folder

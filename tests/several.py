"""Several fake models behind one address, each with vectors of its own."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp
from typing_extensions import override

from app import create_app
from backends.model import Model, Pair, Rows
from config import Settings
from tests.fakes import FakeModel, vector_of
from tests.test_rerank import FakeReranker
from vectorizer import Resources, Vectorizer

FOLDERS = {"image": ("clip", "text"), "text": ("model",), "pair": ("model",)}
CONFIGS = {  # by which a model says what it is before it is loaded
    "text": {"model_type": "bert"},
    "pair": {"model_type": "bert", "architectures": ["BertForSequenceClassification"]},
}


class Named(FakeModel):
    """A model whose vectors depend on its name, of images and texts, or of texts alone."""

    kind = "image"

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.info = replace(self.info, name=name, family=f"family of {name}", vector_space=name)

    @property
    @override
    def model(self) -> Model:
        model = super().model
        return replace(model, towers={one: model.towers[one] for one in self.modalities})

    @property
    def modalities(self) -> Sequence[Any]:
        return ("text", "image")

    @override
    def encode_text(self, texts: Sequence[str]) -> Rows:
        super().encode_text(texts)
        return np.stack([self.vector_of(text) for text in texts])

    @override
    def encode_image(self, batch: Sequence[bytes]) -> Rows:
        super().encode_image(batch)
        return np.stack([self.vector_of(pixels.hex()) for pixels in batch])

    def vector_of(self, content: str) -> np.ndarray:
        return vector_of(f"{self.name} of {content}")


class Texts(Named):
    """One that embeds texts alone."""

    kind = "text"

    @property
    @override
    def modalities(self) -> Sequence[Any]:
        return ("text",)


class Scores(FakeReranker):
    """A reranker whose scores depend on its name."""

    kind = "pair"

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.info = replace(self.info, name=name, score_space=name)

    @override
    def score(self, pairs: Sequence[Pair]) -> Rows:
        super().score(pairs)
        return np.stack([[self.score_of(*pair)] for pair in pairs])

    def score_of(self, query: str, document: str) -> float:
        return float(vector_of(f"{self.name} of {query}|{document}")[0])


AnyFake = Named | Scores


BeforeLoad = Callable[[str], Awaitable[None]]


async def at_once(_: str) -> None:
    """Let a load go on at once."""


def app_of(
    root: Path, fakes: Sequence[AnyFake], before_load: BeforeLoad = at_once, **settings: Any
) -> FastAPI:
    """Return the application with a folder for each fake; `before_load` may hold a load up."""
    by_name: Mapping[str, AnyFake] = {fake.name: fake for fake in fakes}
    for fake in fakes:
        for part in FOLDERS[fake.kind]:
            (root / fake.name / part).mkdir(parents=True, exist_ok=True)
        if fake.kind in CONFIGS:
            (root / fake.name / "model/config.json").write_text(json.dumps(CONFIGS[fake.kind]))

    async def make_vectorizer(settings: Settings, resources: Resources) -> Vectorizer:
        await before_load(settings.models_dir.name)
        fake = by_name[settings.models_dir.name]
        return Vectorizer([fake.model], settings, resources=resources)

    return create_app(Settings(models_dir=root, **settings), make_vectorizer)


@asynccontextmanager
async def serving(
    root: Path,
    fakes: Sequence[AnyFake],
    prefix: str = "",
    before_load: BeforeLoad = at_once,
    **settings: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the application, or another one in which it is mounted at a prefix."""
    app = app_of(root, fakes, before_load, **settings)
    outer: ASGIApp = Starlette(routes=[Mount(prefix, app)]) if prefix else app
    transport = httpx.ASGITransport(outer, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=f"http://test{prefix}") as client,
    ):
        yield client

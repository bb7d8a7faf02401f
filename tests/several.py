"""Several fake models behind one address, each with vectors of its own."""

import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI
from typing_extensions import override

from app import create_app
from backends.model import Modality, Model
from config import Settings
from tests.asgi import client_of
from tests.fake_reranker import FakeReranker, logit_of
from tests.fakes import FakeModel, vector_of
from vectorizer import Resources, Vectorizer

PAIR = {"query": "q", "documents": ["d"]}
FOLDERS = {"image": ("clip", "text"), "text": ("model",), "pair": ("model",)}
CONFIGS = {  # by which a model says what it is before it is loaded
    "text": {"model_type": "bert"},
    "pair": {"model_type": "bert", "architectures": ["BertForSequenceClassification"]},
}


class Named(FakeModel):
    """A model whose vectors depend on its name, of images and texts, or of texts alone."""

    kind = "image"
    modalities: Sequence[Modality] = ("text", "image")

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.info = replace(self.info, name=name, family=f"family of {name}", vector_space=name)
        self.is_readable = threading.Event()  # cleared: its load hangs
        self.is_readable.set()

    @property
    @override
    def model(self) -> Model:
        assert self.is_readable.wait(30)
        model = super().model
        return replace(model, towers={one: model.towers[one] for one in self.modalities})

    @override
    def vector_of(self, content: str | bytes) -> np.ndarray:
        raw = content.encode() if isinstance(content, str) else content
        return vector_of(f"{self.name} of ".encode() + raw)


class Texts(Named):
    """One that embeds texts alone."""

    kind = "text"
    modalities = ("text",)


class Scores(FakeReranker):
    """A reranker whose scores depend on its name."""

    kind = "pair"

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.info = replace(self.info, name=name, score_space=name)

    @override
    def score_of(self, query: str, document: str) -> np.float32:
        return logit_of(f"{self.name} of {query}", document)


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
        loader = resources.loader
        model = await loader.run(lambda: fake.model) if loader else fake.model
        return Vectorizer([model], settings, resources=resources)

    return create_app(Settings(models_dir=root, **settings), make_vectorizer)


def text_of(answer: httpx.Response) -> np.ndarray:
    """The vector of the only text in an answer of /vectorize."""
    return np.array(answer.json()["textVectors"][0], np.float32)


@asynccontextmanager
async def serving(
    root: Path,
    fakes: Sequence[AnyFake],
    prefix: str = "",
    before_load: BeforeLoad = at_once,
    **settings: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the application, or another one in which it is mounted at a prefix."""
    async with client_of(app_of(root, fakes, before_load, **settings), prefix) as client:
        yield client

"""The golden data: small models in the reference's layouts, with the vectors that it answered."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backends.embed import embed
from backends.folder import detect
from backends.model import Model, ModelOptions, Rows, Runtime, TextMode
from backends.replicas import load_replica
from tests.service import CONVERTED

GOLDEN = Path(__file__).parent / "golden"
LAYOUTS = [
    "openai",
    "metaclip2",
    "openclip",
    "sentence_transformers",
    "sentence_transformers_0_CLIPModel",
    "sentence_transformers_multilingual",
    "siglip",
    "siglip1",
    "siglip2_naflex",
    "modernvbert",
    "qwen3_vl",
]
MODES: list[TextMode] = ["trained", "reference"]
RUNTIMES: list[Runtime] = ["openvino", "torch"]

EVERY_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)
EVERY_MODE = pytest.mark.parametrize("mode", MODES)
EVERY_RUNTIME = pytest.mark.parametrize("runtime", RUNTIMES)


@dataclass(frozen=True)
class Case:
    """An input and the vector that belongs to it; None where the reference answered an error."""

    content: str  # a text, or an image's file name
    vector: np.ndarray | None


@lru_cache
def recorded(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / f"vectors/{name}.json").read_text())
    return content


def text_cases(layout: str, mode: TextMode) -> list[Case]:
    trained = recorded("trained_text")
    differs = mode == "trained" and layout in trained
    cases = trained[layout] if differs else recorded(layout)["texts"]
    return [Case(case["text"], vector_in(case)) for case in cases]


# Where the reference read another image than the one it got: a row of three grey pixels.
DEFECTS = {("modernvbert", "one_pixel.png")}


def image_cases(layout: str) -> list[Case]:
    return [
        Case(name, None if (layout, name) in DEFECTS else vector_in(case))
        for name, case in recorded(layout)["images"].items()
    ]


def vector_in(case: dict[str, Any]) -> np.ndarray | None:
    return np.array(case["vector"]) if "vector" in case else None


@lru_cache
def golden_model(layout: str, mode: TextMode, runtime: Runtime = "torch") -> Model:
    options = ModelOptions(text_mode=mode, runtime=runtime, cache_dir=CONVERTED)
    return load_replica(detect(GOLDEN / layout), options)


def embed_texts(model: Model, texts: Sequence[str]) -> Rows:
    return embed(model.towers["text"], texts)


def embed_images(model: Model, images: Sequence[Image.Image]) -> Rows:
    return embed(model.towers["image"], images)


def assert_same(vector: np.ndarray, case: Case) -> None:
    """Assert the law of this project: cosine >= 0.999999, length equal to 1e-4."""
    if case.vector is None:
        assert np.isfinite(vector).all()
        return
    lengths = np.linalg.norm(vector.astype(np.float64)), np.linalg.norm(case.vector)
    assert vector @ case.vector / (lengths[0] * lengths[1]) >= 0.999999
    assert lengths[0] == pytest.approx(lengths[1], abs=1e-4)

"""Small real models that share a device: every vector and every score is the recorded one."""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

from backends.model import Runtime
from backends.scores import ACTIVATIONS
from config import Settings
from inference.request import EmbedInput
from tests.golden_cases import (
    EVERY_RUNTIME,
    GOLDEN,
    Case,
    assert_same,
    golden_model,
    image_cases,
    text_cases,
)
from tests.golden_rerankers import pair_cases, reranker
from tests.golden_texts import text_cases as recorded_texts
from tests.golden_texts import text_model
from tests.image_files import base64_of
from vectorizer import Resources, Vectorizer

pytestmark = pytest.mark.anyio


async def check(engine: Vectorizer, asked: EmbedInput, vector: np.ndarray | None) -> None:
    (embedded,) = await engine.embed([asked])
    assert_same(embedded.vector, Case(asked.name, vector))


async def check_score(engine: Vectorizer, asked: EmbedInput, score: float) -> None:
    (embedded,) = await engine.embed([asked])
    (found,) = ACTIVATIONS[engine.info.activation](embedded.vector)
    assert found == pytest.approx(score, abs=1e-4)


@EVERY_RUNTIME
async def test_imports_and_searches_of_three_models_at_once(runtime: Runtime) -> None:
    settings = Settings(vector_cache_size=0, max_batch_size=4)
    resources = Resources.of(settings)
    models = (
        golden_model("openai", "reference", runtime),
        text_model("bert", runtime),
        reranker("bert", runtime),
    )
    engines = [Vectorizer([model], settings, resources=resources) for model in models]
    clip, texts, pairs = engines
    work: list[Coroutine[Any, Any, None]] = [
        check(clip, EmbedInput(text.content, "text", text.content), text.vector)
        for text in text_cases("openai", "reference")
    ]
    for image in image_cases("openai"):
        file = base64_of((GOLDEN / "images" / image.content).read_bytes())
        work.append(check(clip, EmbedInput(image.content, "image", file), image.vector))
    for number, case in enumerate(recorded_texts("bert")):
        asked = EmbedInput(case.text, "text", case.text, case.params, is_query=number % 2 == 0)
        work.append(check(texts, asked, case.vector))
    for pair, alone, _ in pair_cases("bert"):
        asked = EmbedInput(pair.query, "pair", pair, is_query=True)
        work.append(check_score(pairs, asked, alone))
    random.Random(0).shuffle(work)

    await asyncio.gather(*work)

    assert all(share.used_s > 0 for engine in engines for share in engine._shares.values())
    for engine in engines:
        await engine.aclose()

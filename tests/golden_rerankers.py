"""The golden data of the reranker container: small cross-encoders, and the scores of pairs."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from backends.folder import detect
from backends.model import Model, ModelOptions, Pair, Precision, Runtime, TextMode
from backends.replicas import load_replica
from tests.service import CONVERTED

GOLDEN_RERANKERS = Path(__file__).parent / "golden_rerank"
RERANKERS = ["bert", "bert_new_config", "deberta_v3", "roberta", "xlm_roberta"]


class PairCase(NamedTuple):
    """A pair, and the scores that it got alone and among all documents of its query."""

    pair: Pair
    alone: float
    together: float


def pair_cases(name: str) -> list[PairCase]:
    """All recorded pairs: each query with each document."""
    cases, scores = _read("cases.json"), _read(f"scores/{name}.json")
    return [
        PairCase(Pair(query, text), scores["alone"][asked][document], scores["together"][asked][at])
        for asked, query in cases["queries"].items()
        for at, (document, text) in enumerate(cases["documents"].items())
    ]


def recorded_meta(name: str) -> dict[str, Any]:
    meta: dict[str, Any] = _read(f"scores/{name}.json")["meta"]
    return meta


@lru_cache
def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN_RERANKERS / name).read_text("utf-8"))
    return content


@lru_cache
def reranker(
    name: str,
    runtime: Runtime = "torch",
    mode: TextMode = "reference",
    precision: Precision | None = None,
) -> Model:
    folder = detect(GOLDEN_RERANKERS / name)
    options = ModelOptions(
        text_mode=mode, runtime=runtime, cache_dir=CONVERTED, precision=precision
    )
    return load_replica(folder, options)

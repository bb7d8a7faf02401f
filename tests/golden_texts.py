"""The golden data of the text container: small models in its layouts, and what it answered."""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from backends.embed import embed_all
from backends.folder import detect
from backends.load import options_for
from backends.model import EncodeParams, Model, Runtime, TextMode
from backends.replicas import load_replica
from config import Settings
from inference.request import Postprocess
from tests.service import CONVERTED

GOLDEN_TEXTS = Path(__file__).parent / "golden_text"
ENCODERS = [
    *("bert", "bert_cased", "bert_unigram", "distilbert", "mpnet", "prefixes", "roberta"),
    "xlm_roberta",
]
DPR = ["dpr_context", "dpr_question"]
SENTENCE_TRANSFORMERS = [
    *("sentence_transformers", "sentence_transformers_prefixes", "sentence_transformers_qwen3"),
    *("sentence_transformers_t5", "flan_t5"),
]
NETWORKS = [*ENCODERS, *DPR, *SENTENCE_TRANSFORMERS]  # computed by either runtime
DIRECT = ["bert", "dpr_context", "xlm_roberta"]  # were recorded so as well


@dataclass(frozen=True)
class TextCase:
    """A text, how it is asked for, and the vector that belongs to it."""

    text: str
    params: EncodeParams
    postprocess: Postprocess
    vector: np.ndarray

    @property
    def is_plain(self) -> bool:
        """Whether nothing is said of how it is asked for."""
        return (self.params, self.postprocess) == (EncodeParams(), Postprocess())


def text_cases(name: str) -> list[TextCase]:
    """All recorded answers; not the reference's faults."""
    texts = _read("cases.json")["texts"]
    cases = _read(f"vectors/{name}.json")["cases"]
    return [_case(texts[case["text"]], case) for case in cases if "vector" in case]


def _case(text: str, case: dict[str, Any]) -> TextCase:
    config = case["config"] or {}
    params = EncodeParams(config.get("pooling_strategy", ""), config.get("task_type", ""))
    return TextCase(text, params, Postprocess(config.get("dimensions")), np.array(case["vector"]))


def vector_of(model: Model, case: TextCase) -> np.ndarray:
    """What a model answers to a case, cut where it lets its vectors be cut."""
    (embedded,) = embed_all(model.towers["text"], [case.text], case.params)
    return (case.postprocess(embedded) if model.info.cuts else embedded).vector


def recorded_meta(name: str) -> dict[str, Any]:
    meta: dict[str, Any] = _read(f"vectors/{name}.json")["meta"]
    return meta


@lru_cache
def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN_TEXTS / name).read_text("utf-8"))
    return content


@lru_cache
def text_model(
    name: str, runtime: Runtime = "torch", direct: bool = False, mode: TextMode = "reference"
) -> Model:
    folder = detect(GOLDEN_TEXTS / name)
    settings = Settings(
        text_mode=mode,
        runtime=runtime,
        runtime_cache_dir=CONVERTED,
        t2v_transformers_direct_tokenize=direct,
    )
    return load_replica(folder, options_for(folder, settings))

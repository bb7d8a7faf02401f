"""Names that users store must not change: vector spaces, keys of converted models, schemas.

A changed vector space makes every collection look foreign. A changed key of `model.json` makes
every model convert again.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from app import create_app
from backends.conversion.conversion_cache import converted
from backends.folder import detect
from backends.model import ModelOptions
from tests.golden_cases import GOLDEN, golden_model
from tests.golden_rerankers import GOLDEN_RERANKERS, reranker
from tests.golden_texts import GOLDEN_TEXTS, text_model
from tests.service import CONVERTED

IMAGE_SPACES = {
    "openai": "e37d4c70ac3e",
    "openclip": "d1a0db3ca85d",
    "siglip": "3458239bb5ef",
    "siglip1": "3a626d39cc3d",
    "modernvbert": "f414c6d67041",
    "siglip2_naflex": "346811b738ca",
    "qwen3_vl": "12b86f027cca",
}
TEXT_SPACES = {
    "bert": "5f3027a3e934",
    "sentence_transformers_prefixes": "0e7c828e0efe",
    "dpr_context": "55b4322a685d",
}
SCORE_SPACES = {"bert": "116768934fe6"}
TOKENS: dict[str, Any] = {
    "kind": "tokens",
    "cleaning": "str",
    "padding": {"to": "str", "longest": "int", "token_id": "int", "masked": "bool"},
}
PIXELS: dict[str, Any] = {
    "kind": "pixels",
    "kernel": "str",
    "shortest_edge_px": "int",
    "size_px": "list",
    "crop_px": "list",
    "resample": "int",
    "as_torchvision": "bool",
}
PREPARATIONS: dict[str, dict[str, Any]] = {
    "openai": {"text": TOKENS, "image": PIXELS},
    "siglip1": {
        "text": {**TOKENS, "kind": "siglip1_tokens"},
        "image": {**PIXELS, "shortest_edge_px": "NoneType", "crop_px": "NoneType"},
    },
    "siglip2_naflex": {
        "text": TOKENS,
        "image": {
            "kind": "patches",
            "kernel": "str",
            "resample": "int",
            "patch_px": "int",
            "max_patches": "int",
            "positions": "int",
        },
    },
    "modernvbert": {
        "text": TOKENS,
        "image": {
            "kind": "tiles",
            "tiling": {
                "resample": "int",
                "longest_px": "int",
                "tile_px": "int",
                "max_tiles": "NoneType",
            },
            "prompt": {"text": "str", "tile_tokens": "int", "pad_id": "int"},
        },
    },
    "bert": {
        "text": {
            "kind": "chunks",
            "poolings": "list",
            "prefixes": "bool",
            "every": "int",
            "tokens": TOKENS,
        }
    },
    "sentence_transformers_prefixes": {
        "text": {
            "kind": "prompts",
            "prefixes": "bool",
            "query": "str",
            "document": "str",
            "of": TOKENS,
        }
    },
}
CONVERSATION: dict[str, dict[str, Any]] = {
    "text": {**TOKENS, "kind": "conversation", "frame": {"before": "str", "after": "str"}},
    "image": {
        "kind": "blocks",
        "blocks": {
            "patch_px": "int",
            "merged": "int",
            "positions": "int",
            "least_px": "int",
            "most_px": "int",
        },
        "around": {"before": "list", "after": "list"},
    },
}
PAIRS: dict[str, dict[str, Any]] = {
    "pair": {"kind": "pairs", "padding": TOKENS["padding"], "typed": "bool"}
}
SCHEMAS = {
    "CohereDocument",
    "CohereErrorResponse",
    "CohereMeta",
    "CohereRequest",
    "CohereResponse",
    "CohereResult",
    "CohereTokens",
    "CohereVersion",
    "DocumentScore",
    "EmbedErrorResponse",
    "EmbedInfo",
    "Embedding",
    "EmbeddingInput",
    "EmbeddingsResponse",
    "ErrorDetail",
    "ErrorResponse",
    "JinaUsage",
    "ModelList",
    "ModelObject",
    "NvidiaErrorResponse",
    "NvidiaFault",
    "NvidiaRanking",
    "NvidiaResponse",
    "NvidiaText",
    "OllamaDetails",
    "OllamaModel",
    "OllamaPromptResponse",
    "OllamaResponse",
    "OllamaTags",
    "OllamaVersion",
    "OpenAIErrorResponse",
    "RerankRequest",
    "RerankResponse",
    "RerankTextsRequest",
    "TextRank",
    "Usage",
    "VectorConfig",
    "VectorizeResponse",
    "VectorsOfTextsResponse",
    "VectorsResponse",
}


@pytest.mark.parametrize("layout", IMAGE_SPACES)
def test_the_vector_spaces_of_image_models(layout: str) -> None:
    assert golden_model(layout, "trained", "openvino").info.vector_space == IMAGE_SPACES[layout]


@pytest.mark.parametrize("name", TEXT_SPACES)
def test_the_vector_spaces_of_text_models(name: str) -> None:
    assert text_model(name, "openvino").info.vector_space == TEXT_SPACES[name]


@pytest.mark.parametrize("name", SCORE_SPACES)
def test_the_score_spaces_of_rerankers(name: str) -> None:
    assert reranker(name, "openvino").info.score_space == SCORE_SPACES[name]


def types_of(value: Any) -> Any:
    """Return the keys of a description, with the type of each value; kinds as they stand."""
    if isinstance(value, dict):
        return {key: one if key == "kind" else types_of(one) for key, one in value.items()}
    return type(value).__name__


def folder_of(name: str) -> Path:
    return next(path for path in (GOLDEN / name, GOLDEN_TEXTS / name) if path.is_dir())


@pytest.mark.parametrize(
    ("root", "preparations", "network"),
    [
        *((folder_of(name), towers, "openvino") for name, towers in PREPARATIONS.items()),
        (GOLDEN / "qwen3_vl", CONVERSATION, "stages"),
        (GOLDEN_RERANKERS / "bert", PAIRS, "openvino"),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else "",
)
def test_the_keys_and_kinds_of_converted_models(
    root: Path, preparations: dict[str, dict[str, Any]], network: str
) -> None:
    folder: Path = converted(detect(root), ModelOptions(runtime="openvino", cache_dir=CONVERTED))
    described = json.loads((folder / "model.json").read_text("utf-8"))

    assert set(described) == {"format", "identity", "refused", "shown", "towers", "weights"}
    assert set(described["identity"]) == {"family", "content", "recipe", "text_modes"}
    towers = described["towers"]
    assert {key: types_of(tower["preparation"]) for key, tower in towers.items()} == preparations
    assert {tower["network"]["kind"] for tower in towers.values()} == {network}


def test_the_names_of_schemas_that_clients_generate_code_from() -> None:
    assert set(create_app().openapi()["components"]["schemas"]) >= SCHEMAS

"""Imports into a real Weaviate, which asks the service: all is stored, and found again."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from bench.weaviate import Weaviate

SAMPLES = Path(__file__).parent.parent / "demo/samples"
TEXTS = ["a red circle", "two blue squares", "a green star", "the sea at night"]
_CLIP, _TEXT = "multi2vec-clip", "text2vec-transformers"


def import_pictures(weaviate: Weaviate) -> str:
    """Import images, and find each by itself; return what was done."""
    properties = [{"name": "image", "dataType": ["blob"]}, {"name": "name", "dataType": ["text"]}]
    settings = {_CLIP: {"imageFields": ["image"], "vectorizeClassName": False}}
    _make(weaviate, "Pictures", _CLIP, settings, properties)
    files = sorted(SAMPLES.glob("*.png"))[:8]
    images = {file.name: base64.b64encode(file.read_bytes()).decode() for file in files}
    _add(weaviate, "Pictures", [{"image": image, "name": name} for name, image in images.items()])
    for name, image in images.items():
        found = _get(weaviate, f'Pictures(nearImage: {{image: "{image}"}}, limit: 1) {{ name }}')
        assert found == [{"name": name}], found
    return f"{len(images)} of {len(images)} images"


def import_texts(weaviate: Weaviate, *modules: str) -> str:
    """Import texts, with more modules beside the vectorizer, and find each by itself."""
    settings: dict[str, Any] = {module: {} for module in modules}
    settings[_TEXT] = {"vectorizeClassName": False}
    _make(weaviate, "Texts", _TEXT, settings, [{"name": "text", "dataType": ["text"]}])
    _add(weaviate, "Texts", [{"text": text} for text in TEXTS])
    for text in TEXTS:
        near = f'Texts(nearText: {{concepts: ["{text}"]}}, limit: 1) {{ text }}'
        found = _get(weaviate, near)
        assert found == [{"text": text}], found
    return f"{len(TEXTS)} of {len(TEXTS)} texts"


def rerank_texts(weaviate: Weaviate) -> str:
    """Search the texts, and have what is found reranked."""
    rerank = '_additional { rerank(property: "text", query: "blue") { score } }'
    near = 'Texts(nearText: {concepts: ["a red circle"]}) { text %s }'
    found = _get(weaviate, near % rerank)
    scores = [one["_additional"]["rerank"][0]["score"] for one in found]
    assert len(scores) == len(TEXTS)
    assert scores == sorted(scores, reverse=True)
    return f"{len(TEXTS)} texts, by falling score"


def count(weaviate: Weaviate, collection: str) -> int:
    """How many objects Weaviate holds."""
    query = f"{{ Aggregate {{ {collection} {{ meta {{ count }} }} }} }}"
    answer = weaviate.ask("POST", "/v1/graphql", {"query": query})
    return int(answer["data"]["Aggregate"][collection][0]["meta"]["count"])


def _make(
    weaviate: Weaviate, name: str, vectorizer: str, settings: dict[str, Any], properties: list[Any]
) -> None:
    """Make a collection."""
    collection = {
        "class": name,
        "vectorizer": vectorizer,
        "moduleConfig": settings,
        "properties": properties,
    }
    weaviate.ask("POST", "/v1/schema", collection)


def _add(weaviate: Weaviate, collection: str, rows: list[dict[str, str]]) -> None:
    """Import a batch; each object must be stored."""
    batch = [{"class": collection, "properties": row} for row in rows]
    for one in weaviate.ask("POST", "/v1/batch/objects", {"objects": batch}):
        assert one["result"]["status"] == "SUCCESS", one


def _get(weaviate: Weaviate, query: str) -> list[Any]:
    """Search by GraphQL."""
    answer = weaviate.ask("POST", "/v1/graphql", {"query": f"{{ Get {{ {query} }} }}"})
    assert "errors" not in answer, answer
    (found,) = answer["data"]["Get"].values()
    return list(found)

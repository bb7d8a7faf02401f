"""Searches a running Weaviate, lets a reranker order what it finds, and checks each score.

    python -m examples.rerank --service http://localhost:9091

Weaviate must run with `reranker-transformers` and a module that vectorizes texts, such as that of
deploy/docker-compose.rerank.yml. By GraphQL and by gRPC the documents must come in the order of the
scores that the service itself gives by `POST /rerank`, with these scores. Ends with 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any
from urllib.request import Request, urlopen

import weaviate
from weaviate import WeaviateClient
from weaviate.classes.config import Configure, DataType, Property
from weaviate.classes.query import MetadataQuery, Rerank
from weaviate.collections import Collection

COLLECTION = "RerankedRecipes"
QUERY = "How long must dough rest?"
RECIPES = {
    "bread": "Mix flour, water and salt. The dough rests for a day, then bake it at 230 degrees.",
    "soup": "Boil carrots and onions for half an hour, then blend them with cream.",
    "pancakes": "Beat eggs, milk and flour, and let the batter stand for twenty minutes.",
    "salad": "",
}
TOLERANCE = 1e-4

Found = list[tuple[str, float]]  # names and scores, in the order of an answer


def main() -> int:
    """Import, search in every way, and compare; return 1 if something differs."""
    options = _options()
    expected = scores_of(options.service)
    failed = 0
    with weaviate.connect_to_local(options.host, options.port, options.grpc_port) as client:
        try:
            collection = make(client, options.vectorizer)
            for way, found in searches(client, collection):
                fault = difference(found, expected)
                failed += bool(fault)
                print(f"{'FAILED' if fault else 'ok':8}{way}{fault and f': {fault}'}", flush=True)
        finally:
            client.collections.delete(COLLECTION)
    return int(failed > 0)


def scores_of(service: str) -> dict[str, float]:
    """Ask the service itself to score all recipes."""
    body = json.dumps({"query": QUERY, "documents": list(RECIPES.values())}).encode()
    with urlopen(Request(f"{service}/rerank", body)) as answer:  # noqa: S310 - the operator's URL
        scores = json.load(answer)["scores"]
    return dict(zip(RECIPES, (one["score"] for one in scores), strict=True))


def make(client: WeaviateClient, vectorizer: str) -> Collection[Any, Any]:
    """Make the collection anew, and import the recipes."""
    client.collections.delete(COLLECTION)
    collection = client.collections.create(
        COLLECTION,
        vector_config=Configure.Vectors.custom(module_name=vectorizer, module_config={}),
        reranker_config=Configure.Reranker.transformers(),
        properties=[
            Property(name="name", data_type=DataType.TEXT),
            Property(name="text", data_type=DataType.TEXT),
        ],
    )
    for name, text in RECIPES.items():
        collection.data.insert({"name": name, "text": text})
    return collection


def searches(
    client: WeaviateClient, collection: Collection[Any, Any]
) -> Iterator[tuple[str, Found]]:
    """Search in every way; all of them find all recipes."""
    rerank, metadata = Rerank(prop="text", query=QUERY), MetadataQuery(score=True)
    some = next(iter(collection.iterator())).uuid
    query = collection.query
    by_grpc: dict[str, Callable[[], Any]] = {
        "near text": lambda: query.near_text("bread", rerank=rerank, return_metadata=metadata),
        "near object": lambda: query.near_object(some, rerank=rerank, return_metadata=metadata),
        "hybrid": lambda: query.hybrid("bread", alpha=1, rerank=rerank, return_metadata=metadata),
    }
    for way, search in by_grpc.items():
        yield (
            f"gRPC, {way}",
            [
                (str(one.properties["name"]), float(one.metadata.rerank_score))
                for one in search().objects
            ],
        )
    by_graphql = {
        "all": "",
        "near text": '(nearText: {concepts: ["bread"]})',
        "near object": f'(nearObject: {{id: "{some}"}})',
        "hybrid": '(hybrid: {query: "bread", alpha: 1})',
    }
    for way, argument in by_graphql.items():
        wanted = f'rerank(property: "text", query: "{QUERY}") {{ score }}'
        answer = client.graphql_raw_query(
            f"{{ Get {{ {COLLECTION}{argument} {{ name _additional {{ {wanted} }} }} }} }}"
        )
        if answer.errors:
            raise RuntimeError(answer.errors)
        recipes: list[Any] = answer.get[COLLECTION]
        yield (
            f"GraphQL, {way}",
            [(one["name"], one["_additional"]["rerank"][0]["score"]) for one in recipes],
        )


def difference(found: Found, expected: dict[str, float]) -> str:
    """Return what differs from the service's own scores; empty if nothing does."""
    if {name for name, _ in found} != expected.keys():
        return f"{expected.keys()} expected, not {[name for name, _ in found]}"
    for name, score in found:
        if abs(score - expected[name]) > TOLERANCE:
            return f"{name} has {score}; the service gives {expected[name]}"
    scores = [score for _, score in found]
    return "" if scores == sorted(scores, reverse=True) else f"no order: {found}"


def _options() -> argparse.Namespace:
    form = argparse.ArgumentParser(prog="python -m examples.rerank", description=__doc__)
    form.add_argument("--service", default="http://localhost:9091", help="the reranker's address")
    form.add_argument("--vectorizer", default="text2vec-transformers", help="a module of Weaviate")
    form.add_argument("--host", default="localhost", help="Weaviate's (default: localhost)")
    form.add_argument("--port", type=int, default=8080, help="Weaviate's (default: 8080)")
    form.add_argument("--grpc-port", type=int, default=50051, help="its other (default: 50051)")
    return form.parse_args()


if __name__ == "__main__":
    sys.exit(main())

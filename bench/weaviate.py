"""Measures imports and searches in Weaviate, by each of its text modules.

    python -m bench.weaviate --weaviate http://localhost:8080 --service http://localhost:9090

Weaviate must run with the modules (`ENABLE_MODULES`), and reach the service at `--service`. For
each module it imports distinct texts, in batches of 100 and then of 10 to 100, for `--minutes`
each, while a client searches without a pause. An import with failed objects has no rate. It exits
with 1 if objects failed, or if `text2vec-ollama` is too slow relative to `text2vec-transformers`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

from bench.inputs import text

COLLECTION = "BenchOfModules"
ASKED_FOR = 2.2  # minimum speed of text2vec-ollama, relative to text2vec-transformers
BATCHES = {"100": (100, 100), "10 to 100": (10, 100)}
# Weaviate reads this header, named after Cohere, for text2vec-huggingface; without it, it stalls.
HEADERS = {
    "Content-Type": "application/json",
    "X-Cohere-Ratelimit-RequestPM-Embedding": "1000000",
}


def service_settings(service: str) -> dict[str, dict[str, str]]:
    """Return the collection's settings of each module, with the address of the service."""
    return {
        "text2vec-transformers": {"inferenceUrl": service},
        "text2vec-ollama": {"apiEndpoint": service, "model": "any"},
        "text2vec-huggingface": {"endpointURL": service},
    }


@dataclass
class Import:
    """An import and its measurements.

    Attributes:
        module: Weaviate's module.
        batches: its batch sizes, in words.
        objects: number of stored objects.
        failed: number of failed objects.
        seconds: duration of the import.
        searches_s: durations of searches during the import.
        failed_searches: number of failed searches.
    """

    module: str
    batches: str
    objects: int = 0
    failed: int = 0
    seconds: float = 0.0
    searches_s: list[float] = field(default_factory=list)
    failed_searches: int = 0

    @property
    def rate(self) -> float | None:
        """Objects a second; None if an object failed."""
        return None if self.failed or not self.seconds else self.objects / self.seconds


class Weaviate:
    """A connection to Weaviate; each thread needs its own."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._connection = HTTPConnection(parts.hostname or "", parts.port or 80, timeout=120)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._connection.close()

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Send a request and return the JSON of its answer.

        Raises:
            OSError: there is no answer, or an error status.
        """
        content = None if body is None else json.dumps(body)
        self._connection.request(method, path, content, HEADERS)
        answer = self._connection.getresponse()
        raw = answer.read()
        if answer.status >= 300:
            raise OSError(f"{method} {path}: {answer.status} {raw[:500].decode(errors='replace')}")
        return json.loads(raw) if raw else None

    def make(self, module: str, settings: Mapping[str, str]) -> None:
        """Delete and create the collection."""
        self.drop()
        vectorizer = {"vectorizeClassName": False, **settings}
        self.ask(
            "POST",
            "/v1/schema",
            {
                "class": COLLECTION,
                "vectorizer": module,
                "moduleConfig": {module: vectorizer},
                "properties": [{"name": "text", "dataType": ["text"]}],
            },
        )

    def drop(self) -> None:
        """Delete the collection, if it is there."""
        self.close()  # Weaviate has closed a connection that was idle for an import
        self.ask("DELETE", f"/v1/schema/{COLLECTION}")

    def add(self, texts: Sequence[str]) -> int:
        """Import a batch; return the number of failed objects."""
        objects = [
            {"class": COLLECTION, "id": str(uuid.uuid4()), "properties": {"text": text}}
            for text in texts
        ]
        answered = self.ask("POST", "/v1/batch/objects", {"objects": objects})
        return sum(bool(one.get("result", {}).get("errors")) for one in answered)

    def search(self, text: str) -> None:
        """Search for a text.

        Raises:
            OSError: the search failed.
        """
        near = f"nearText: {{concepts: [{json.dumps(text)}]}}, limit: 5"
        query = f"{{ Get {{ {COLLECTION}({near}) {{ text }} }} }}"
        errors = self.ask("POST", "/v1/graphql", {"query": query}).get("errors")
        if errors:
            raise OSError(errors[0]["message"])


def run(address: str, seen: Import, seconds: float, numbers: Iterator[int]) -> None:
    """Import for some time, and search meanwhile.

    Args:
        address: address of Weaviate, which has the collection.
        seen: the import, which takes the measurements.
        seconds: duration.
        numbers: numbers of texts, all distinct.

    Raises:
        OSError: Weaviate refused a whole batch.
    """
    fewest, most = BATCHES[seen.batches]
    ended, sizes = threading.Event(), random.Random(0)
    searcher = threading.Thread(target=_search, args=(address, seen, ended), daemon=True)
    began_s = time.perf_counter()
    searcher.start()
    try:
        with closing(Weaviate(address)) as weaviate:
            while time.perf_counter() - began_s < seconds:
                batch = [text(next(numbers)) for _ in range(sizes.randint(fewest, most))]
                failed = weaviate.add(batch)
                seen.failed += failed
                seen.objects += len(batch) - failed
        seen.seconds = time.perf_counter() - began_s
    finally:
        ended.set()
        searcher.join()


def _search(address: str, seen: Import, ended: threading.Event) -> None:
    with closing(Weaviate(address)) as weaviate:
        for number in itertools.count():
            if ended.is_set():
                return
            began_s = time.perf_counter()
            try:
                weaviate.search(f"where is number {number}?")
            except (OSError, HTTPException):
                seen.failed_searches += 1
                weaviate.close()
            else:
                seen.searches_s.append(time.perf_counter() - began_s)


def table(imports: Sequence[Import]) -> str:
    """Return the measurements as a Markdown table."""
    lines = [
        "| module | batches | objects/s | stored | failed | searches | median ms | slowest ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in imports:
        rate = "none, as objects failed" if one.rate is None else f"{one.rate:.0f}"
        times = one.searches_s or [float("nan")]
        searches = f"{len(one.searches_s)}, {one.failed_searches} failed"
        middle, slowest = 1000 * statistics.median(times), 1000 * max(times)
        lines.append(
            f"| `{one.module}` | {one.batches} | {rate} | {one.objects} | {one.failed} | "
            f"{searches} | {middle:.0f} | {slowest:.0f} |"
        )
    return "\n".join(lines)


def faults(imports: Sequence[Import]) -> list[str]:
    """Return a sentence for each failure or missed target."""
    found = [f"{one.module}: {one.failed} objects failed" for one in imports if one.failed]
    rates = {(one.module, one.batches): one.rate for one in imports}
    for batches in BATCHES:
        slow = rates.get(("text2vec-transformers", batches))
        quick = rates.get(("text2vec-ollama", batches))
        if slow and quick and quick < ASKED_FOR * slow:
            found.append(
                f"text2vec-ollama, batches of {batches}: {quick / slow:.2f} times as quick as "
                f"text2vec-transformers; {ASKED_FOR} are asked for"
            )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Import by each module; return 1 if there are failures."""
    options = _parse(arguments)
    settings, numbers = service_settings(options.service), itertools.count(time.time_ns())
    imports: list[Import] = []
    with closing(Weaviate(options.weaviate)) as weaviate:
        for module, batches in itertools.product(options.modules, BATCHES):
            weaviate.make(module, settings[module])
            imports.append(Import(module, batches))
            run(options.weaviate, imports[-1], 60 * options.minutes, numbers)
            print(table(imports[-1:]).splitlines()[-1], file=sys.stderr)
        weaviate.drop()
    print(table(imports))
    found = faults(imports)
    print("\n".join(found), end="\n" if found else "", file=sys.stderr)
    return int(bool(found))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.weaviate", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--weaviate", default="http://localhost:8080", help="its address")
    parser.add_argument(
        "--service", default="http://localhost:9090", help="this service's address for Weaviate"
    )
    parser.add_argument("--minutes", type=float, default=3.0, help="of each import")
    modules = list(service_settings(""))
    parser.add_argument("--modules", nargs="+", default=modules, choices=modules)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

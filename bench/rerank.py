"""How fast a reranker ranks, beside the same model without a service, in turns.

    python -m bench.rerank [--rounds 15] [--precisions float32 int8] [--reference URL]

The model has the shape of ms-marco-MiniLM-L-6-v2: a trained MiniLM with a random head, as 8 bits of
random layers would differ too much. Queries have 10 words, documents 80, and no pair comes twice.
"alone" is one request of 32 documents to an idle service, beside the forward passes of 32 such
pairs. "searches" are 8 clients with such requests, beside a loop that prepares and computes pairs
in batches of the best size. Both sides take turns in each round, so the ratios of the rounds, whose
median counts, hardly depend on what else the machine does. It ends with 1 if a ratio misses its
target.

`--reference` is the URL of a container of Weaviate's reranker-transformers that serves the folder
of `--make`. Its pairs a second are compared, and the bare passes of its library, too: the figure is
the ratio of the two services as a share of the ratio of the bare passes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import torch
from sentence_transformers import CrossEncoder
from transformers import BertForSequenceClassification

from backends.folder import detect
from backends.model import EncodeParams, ModelInput, ModelOptions, Pair, Precision, Tower
from backends.replicas import load_replica
from bench.client import Target
from bench.families import COMPLETE, family_folder
from bench.service import ROOT, Service, running
from bench.trained import docstrings, trained_model

CACHE = ROOT / "build" / "bench-converted"
QUERY_WORDS, DOCUMENT_WORDS, DOCUMENTS, CLIENTS = 10, 80, 32, 8
BATCHES = (8, 16, 32, 64)
ALONE_AT_MOST, SEARCHES_AT_LEAST = 1.15, 0.9
IDENTITY = "torch.nn.modules.linear.Identity"


def make_model() -> Path:
    """Write the model, if it is missing, and return its folder."""
    folder = family_folder("reranker")
    if (folder / COMPLETE).is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    model = folder / "model"
    model.mkdir(parents=True)
    torch.manual_seed(0)
    network = BertForSequenceClassification.from_pretrained(trained_model(), num_labels=1)
    network.config.sbert_ce_default_activation_function = IDENTITY
    network.save_pretrained(model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(trained_model() / name, model)
    (folder / COMPLETE).touch()
    return folder


class Searches:
    """An endless supply of queries with documents, none of which comes twice."""

    def __init__(self) -> None:
        words = {word for text in docstrings() for word in text.split()}
        self._words = sorted(word for word in words if word.isalpha() and word.islower())
        self._numbers = itertools.count()

    def take(self, documents: int = DOCUMENTS) -> tuple[str, list[str]]:
        """Return a query and its documents."""
        source = random.Random(next(self._numbers))
        texts = [self._text(source, DOCUMENT_WORDS) for _ in range(documents)]
        return self._text(source, QUERY_WORDS), texts

    def _text(self, source: random.Random, words: int) -> str:
        return " ".join(source.choices(self._words, k=words))


class Bare:
    """The converted model by itself."""

    def __init__(self, folder: Path, precision: Precision) -> None:
        options = ModelOptions(runtime="openvino", cache_dir=CACHE, precision=precision)
        model = load_replica(detect(folder), options)
        if (model.info.runtime, model.info.precision) != ("openvino", precision):
            raise RuntimeError(f"the model is not served in {precision}: {model.info.refused}")
        self._tower: Tower = model.towers["pair"]

    def prepare(self, query: str, documents: Sequence[str]) -> list[ModelInput]:
        """Tokenize pairs."""
        prepare, params = self._tower.processor.prepare, EncodeParams()
        return [prepare(Pair(query, text), params) for text in documents]

    def compute(self, items: Sequence[ModelInput], batch: int = DOCUMENTS) -> None:
        """Compute pairs in batches of equal padded lengths, as the service does."""
        waiting: dict[int, list[ModelInput]] = {}
        for item in items:
            waiting.setdefault(item.cost, []).append(item)
        for some in waiting.values():
            for start in range(0, len(some), batch):
                arrays = self._tower.processor.collate(some[start : start + batch])
                self._tower.network(*arrays)


def ask(connection: HTTPConnection, search: tuple[str, list[str]]) -> None:
    """Let the service rank.

    Raises:
        RuntimeError: it does not.
    """
    query, documents = search
    content = json.dumps({"query": query, "documents": documents})
    connection.request("POST", "/rerank", content, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status}: {body[:300].decode(errors='replace')}")


def connect(target: Target) -> closing[HTTPConnection]:
    """Open a connection for a `with`."""
    return closing(HTTPConnection(target.host, target.port, timeout=120))


def alone(service: Service, bare: Bare, searches: Searches, rounds: int) -> list[float]:
    """Return how much longer a request takes than its forward passes, in each round."""
    ratios = []
    with connect(service.target) as connection:
        for number in range(rounds + 2):
            items = bare.prepare(*searches.take())
            bare_s = _seconds(lambda: bare.compute(items))  # noqa: B023 - called at once
            search = searches.take()
            service_s = _seconds(lambda: ask(connection, search))  # noqa: B023 - called at once
            if number >= 2:  # the first warm up
                ratios.append(service_s / bare_s)
    return ratios


def crowd(
    service: Service, bare: Bare, searches: Searches, rounds: int, seconds: float
) -> list[float]:
    """Return the service's pairs a second as a share of the bare loop's, in each round."""
    batch = best_batch(bare, searches, seconds)
    ratios = []
    for _ in range(rounds):
        before = bare_rate(bare, searches, batch, seconds / 2)
        rate = service_rate(service.target, searches, seconds)
        after = bare_rate(bare, searches, batch, seconds / 2)
        ratios.append(2 * rate / (before + after))
    return ratios


def beside_reference(
    service: Service, reference: Target, bare: Bare, searches: Searches, rounds: int, seconds: float
) -> list[float]:
    """Return the ratio of the services as a share of that of the bare passes, in each round."""
    batch = best_batch(bare, searches, seconds)
    library = CrossEncoder(str(make_model() / "model"), device="cpu")
    shares = []
    for _ in range(rounds):
        rate = service_rate(service.target, searches, seconds)
        reference_rate = service_rate(reference, searches, seconds)
        computed_rate = bare_rate(bare, searches, batch, seconds)
        shares.append(
            rate / reference_rate / (computed_rate / library_rate(library, searches, seconds))
        )
    return shares


def library_rate(library: CrossEncoder, searches: Searches, seconds: float) -> float:
    """Return pairs a second of a loop over the calls that the reference makes."""

    def rank() -> int:
        query, documents = searches.take()
        library.predict([(query, document) for document in documents])
        return len(documents)

    return _rate(rank, seconds)


def bare_rate(bare: Bare, searches: Searches, batch: int, seconds: float) -> float:
    """Return pairs a second of a loop that prepares and computes the pairs of 8 searches."""

    def compute() -> int:
        items = [item for _ in range(CLIENTS) for item in bare.prepare(*searches.take())]
        bare.compute(items, batch)
        return len(items)

    return _rate(compute, seconds)


def best_batch(bare: Bare, searches: Searches, seconds: float) -> int:
    """Return the batch size at which the bare loop is fastest."""
    return max(BATCHES, key=lambda size: bare_rate(bare, searches, size, seconds / 4))


def service_rate(target: Target, searches: Searches, seconds: float) -> float:
    """Return pairs a second of 8 clients."""
    began_s = time.perf_counter()

    def search(_: int) -> int:
        pairs = 0
        with connect(target) as connection:
            while time.perf_counter() - began_s < seconds:
                ask(connection, searches.take())
                pairs += DOCUMENTS
        return pairs

    with ThreadPoolExecutor(CLIENTS) as clients:
        pairs = sum(clients.map(search, range(CLIENTS)))
    return pairs / (time.perf_counter() - began_s)


def _rate(work: Callable[[], int], seconds: float) -> float:
    """Repeat some work, which returns its number of pairs; return pairs a second."""
    pairs, began_s = 0, time.perf_counter()
    while time.perf_counter() - began_s < seconds:
        pairs += work()
    return pairs / (time.perf_counter() - began_s)


def _seconds(work: Callable[[], None]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def measure(
    precision: Precision, rounds: int, seconds: float, reference: Target | None
) -> Iterator[tuple[str, bool]]:
    """Measure in a precision; give a row of the table for each figure, and whether it is met."""
    folder, searches = make_model(), Searches()
    bare = Bare(folder, precision)
    settings = {
        "MODELS_DIR": str(folder),
        "PRECISION": precision,
        "RUNTIME_CACHE_DIR": str(CACHE),
        "REQUEST_TIMEOUT_S": "600",  # a busy machine shall be slow, and refuse nothing
    }
    with running(f"rerank-{precision}", settings=settings) as service:
        yield _row(
            f"{precision} | {DOCUMENTS} documents alone, beside the bare passes",
            alone(service, bare, searches, rounds),
            at_most=ALONE_AT_MOST,
        )
        few = max(3, rounds // 3)
        yield _row(
            f"{precision} | {CLIENTS} searches at a time, pairs a second beside the bare loop",
            crowd(service, bare, searches, few, seconds),
            at_least=SEARCHES_AT_LEAST,
        )
        if reference:
            yield _row(
                f"{precision} | ratio to the reference, as a share of that of the bare passes",
                beside_reference(service, reference, bare, searches, few, seconds),
                at_least=SEARCHES_AT_LEAST,
            )


def _row(
    figure: str, found: Sequence[float], at_least: float = 0.0, at_most: float = math.inf
) -> tuple[str, bool]:
    """Return a row of the table, and whether the median meets its target."""
    ratio = statistics.median(found)
    asked = f">= {at_least}" if at_least else f"<= {at_most}"
    spread = f"{min(found):.2f} to {max(found):.2f}"
    return f"| {figure} | {asked} | {ratio:.2f} | {spread} |", at_least <= ratio <= at_most


def main() -> int:
    """Measure, and print a table; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.rerank", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=15, help="of each figure")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each turn of 8 searches")
    parser.add_argument(
        "--precisions", nargs="+", default=["float32", "int8"], choices=["float32", "int8"]
    )
    parser.add_argument("--reference", type=Target.from_url, metavar="URL", help="of its container")
    parser.add_argument("--make", action="store_true", help="write the model, print its folder")
    options = parser.parse_args()
    if options.make:
        print(make_model())
        return 0
    print("| precision | figure | asked | median | rounds |\n|---|---|---|---|---|", flush=True)
    met = True
    for precision in options.precisions:
        for row, is_met in measure(precision, options.rounds, options.seconds, options.reference):
            print(row, flush=True)
            met &= is_met
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())

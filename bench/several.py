"""How several models share a machine: `python -m bench.several`.

    python -m bench.several [--pairs minilm+openai ...] [--figures search imports overload alone]

Each pair of models is served by one process. The figures:

    search      a client searches with one model, while clients import into it, and then while
                clients import into the other: the ratio of the medians, and of the 95th percentiles
    imports     imports into both models at once, in one process and in two, in turns. Each model's
                rate is a share of its rate alone; the figure is the ratio of the sums of the shares
    overload    both models are sent requests until they refuse: the time until a refused request
                is admitted beside its Retry-After, and the answers of all that were admitted
    alone       an import into one of the two models, beside one into a service that has no other

The reranker is that of `bench.rerank`, and its import is a crowd of searches with 32 documents.
Ratios are those within a round, as machines drift; their median counts.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from bench import inputs, rerank, wire
from bench.client import Target
from bench.families import model_folder
from bench.load import Group, Measurement, Timing, closed_loop, percentile
from bench.service import free_port, running
from bench.wire import Request

PAIRS = ("minilm+openai", "minilm+reranker", "minilm+modernvbert")
SEARCH_AT_MOST, IMPORTS_AT_LEAST, RETRY_WITHIN = 1.5, 0.95, 2.0
_SEARCH_EVERY_S = 0.037
_TIMEOUT_S = 20.0  # of the services of `overload`, so that their queues are soon full
_WORK_S = 2.0  # seconds of work of each request of `overload`
_CROWD = 9  # of these requests to each model at once
_REFUSED_WITHIN_S = 1.0  # after this time a request counts as admitted
_POLL_S = 0.1
_numbers = itertools.count()
_searches = functools.cache(rerank.Searches)


@dataclass(frozen=True)
class Load:
    """The requests to a model.

    Attributes:
        search: function that makes a search.
        some: function that makes a request with a number of items.
        clients: clients of an import.
        items: items of each request of an import.
    """

    search: Callable[[], Request]
    some: Callable[[int], Request]
    clients: int
    items: int = 1


def _texts(count: int) -> Request:
    texts = [inputs.text(next(_numbers)) for _ in range(count)]
    body = {"input": texts, "model": "any", "encoding_format": "base64"}
    return Request("POST", "/v1/embeddings", json.dumps(body).encode())


def _images(count: int) -> Request:
    images = (inputs.image_b64(inputs.SMALL, next(_numbers)) for _ in range(count))
    return Request("POST", "/vectorize", b'{"images":["' + b'","'.join(images) + b'"]}')


def _documents(count: int) -> Request:
    query, documents = _searches().take(count)
    body = {"query": query, "documents": documents}
    return Request("POST", "/rerank", json.dumps(body).encode())


def _clip_search() -> Request:
    return wire.reference().search_request(inputs.text(next(_numbers)))


def _text_search() -> Request:
    return wire.text_reference().search_request(inputs.text(next(_numbers)))


LOADS = {
    "minilm": Load(_text_search, _texts, clients=8, items=8),
    "openai": Load(_clip_search, _images, clients=16),
    "reranker": Load(lambda: _documents(10), _documents, clients=8, items=32),
    "modernvbert": Load(_clip_search, _images, clients=4),
}


def _import(model: str) -> Group:
    load = LOADS[model]
    return Group(lambda: load.some(load.items), load.clients)


def _search(model: str) -> Group:
    return Group(LOADS[model].search, clients=1, pause_s=_SEARCH_EVERY_S)


def _folder(model: str) -> Path:
    return rerank.make_model() if model == "reranker" else model_folder(model)


@contextmanager
def serving(*models: str, **settings: object) -> Iterator[Target]:
    """Serve models in one process."""
    folders = {model: _folder(model) for model in models}
    variables = {
        "DEFAULT_MODEL": ",".join(models),
        "VECTOR_CACHE_SIZE": "0",
        "RUNTIME_CACHE_DIR": str(rerank.CACHE),
        "REQUEST_TIMEOUT_S": "600",  # imports shall be slow, and not refused
        "MAX_IMAGE_TILES": "1",  # ModernVBERT takes 10 s for an image of 13 tiles on two cores
        **{name: str(value) for name, value in settings.items()},
    }
    name = f"several-{'-'.join(models)}-{free_port()}"
    with TemporaryDirectory() as root:
        for model, folder in folders.items():
            Path(root, model).symlink_to(folder.absolute())
        variables["MODELS_DIR"] = root
        with running(name, settings=variables) as service:
            yield service.target


def _at(target: Target, model: str) -> Target:
    return target._replace(base_path=f"/m/{model}")


async def _run(groups: Sequence[tuple[Target, Group]], timing: Timing) -> list[Measurement]:
    """Run groups of clients at once, each against its own target."""
    loads = (closed_loop(target, [group], timing) for target, group in groups)
    return [measurement for (measurement,) in await asyncio.gather(*loads)]


# The figures: each gives rows of the table, with whether the target is met.

Row = tuple[str, str, str, str, bool]


def search(pair: Sequence[str], rounds: int, seconds: float) -> Iterator[Row]:
    """Measure a search with each model while clients import into it, and into the other."""
    timing = Timing(seconds, burn_in_s=2)
    with serving(*pair) as target:
        for searched in pair:
            (other,) = set(pair) - {searched}
            found: dict[str, list[Sequence[float]]] = {searched: [], other: []}
            for number in range(rounds):
                for imported in (searched, other)[:: 1 if number % 2 else -1]:
                    both = [
                        (_at(target, searched), _search(searched)),
                        (_at(target, imported), _import(imported)),
                    ]
                    searches, imports = asyncio.run(_run(both, timing))
                    _check(searches, imports)
                    found[imported].append(searches.latencies_ms)
            for name, percent in (("median", 50.0), ("p95", 95.0)):
                own_ms, other_ms = (
                    [percentile(one, percent) for one in found[model]]
                    for model in (searched, other)
                )
                ratio = statistics.median(b / a for a, b in zip(own_ms, other_ms, strict=True))
                yield (
                    f"{name} of a search with {searched} while {other} imports / while it imports",
                    f"<= {SEARCH_AT_MOST}",
                    f"{ratio:.2f}",
                    f"{statistics.median(other_ms):.1f} / {statistics.median(own_ms):.1f} ms",
                    ratio <= SEARCH_AT_MOST,
                )


def imports(pair: Sequence[str], rounds: int, seconds: float) -> Iterator[Row]:
    """Measure imports into both models in one process, and in two."""
    timing = Timing(seconds, burn_in_s=2)
    with ExitStack() as held:
        together = held.enter_context(serving(*pair))
        alone = {model: held.enter_context(serving(model)) for model in pair}
        loads = {
            where: [(_at(targets[model], model), _import(model)) for model in pair]
            for where, targets in (("one", dict.fromkeys(pair, together)), ("two", alone))
        }
        lone = [asyncio.run(_run([load], timing))[0].rate_per_s for load in loads["two"]]
        ratios, details = [], []
        for number in range(rounds):
            shares = {}
            for where in ("one", "two")[:: -1 if number % 2 else 1]:
                both = asyncio.run(_run(loads[where], timing))
                _check(*both)
                rates = [measured.rate_per_s for measured in both]
                shares[where] = [rate / full for rate, full in zip(rates, lone, strict=True)]
            ratios.append(sum(shares["one"]) / sum(shares["two"]))
            details.append((*shares["one"], *shares["two"]))
        means = [statistics.median(one) for one in zip(*details, strict=True)]
        ratio = statistics.median(ratios)
        yield (
            "imports into both at once, one process / two processes",
            f">= {IMPORTS_AT_LEAST}",
            f"{ratio:.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f}; shares of each alone: "
            f"{means[0]:.2f} + {means[1]:.2f} / {means[2]:.2f} + {means[3]:.2f}",
            ratio >= IMPORTS_AT_LEAST,
        )


def alone(pair: Sequence[str], rounds: int, seconds: float) -> Iterator[Row]:
    """Measure an import into one of two models, beside one into a service with no other model."""
    timing = Timing(seconds, burn_in_s=2)
    with ExitStack() as held:
        together = held.enter_context(serving(*pair))
        for model in pair:
            with serving(model) as single:
                ratios = []
                for number in range(rounds):
                    rates = {}
                    for target in (together, single)[:: 1 if number % 2 else -1]:
                        load = (_at(target, model), _import(model))
                        (measured,) = asyncio.run(_run([load], timing))
                        _check(measured)
                        rates[target] = measured.rate_per_s
                    ratios.append(rates[together] / rates[single])
            ratio = statistics.median(ratios)
            yield (
                f"an import into {model} beside an idle model / without one",
                f">= {IMPORTS_AT_LEAST}",
                f"{ratio:.2f}",
                f"{min(ratios):.2f} to {max(ratios):.2f}",
                ratio >= IMPORTS_AT_LEAST,
            )


def overload(pair: Sequence[str], rounds: int, _: float) -> Iterator[Row]:
    """Fill both queues; measure the time until a refused request is admitted."""
    with serving(*pair, REQUEST_TIMEOUT_S=_TIMEOUT_S) as target:
        crowds = [_Crowd(_at(target, model), model) for model in pair]
        asyncio.run(_overload(crowds, rounds))
    for crowd in crowds:
        ratios = [waited_s / after_s for after_s, waited_s in crowd.waits]
        good = sum(1 / RETRY_WITHIN <= ratio <= RETRY_WITHIN for ratio in ratios)
        yield (
            f"seconds until a refused request to {crowd.model} is admitted / Retry-After",
            f"within a factor of {RETRY_WITHIN:g}",
            f"{good} of {len(ratios)}",
            ", ".join(f"{waited_s:.1f}/{after_s}" for after_s, waited_s in crowd.waits),
            good == len(ratios) > 0,
        )
    for crowd in crowds:
        late = sum(count for status, count in crowd.answers.items() if status != HTTPStatus.OK)
        yield (
            f"admitted requests to {crowd.model} without an answer",
            "0",
            str(late),
            ", ".join(f"{count} of status {status}" for status, count in crowd.answers.items()),
            not late,
        )


async def _overload(crowds: Sequence[_Crowd], rounds: int) -> None:
    async with httpx.AsyncClient(timeout=4 * _TIMEOUT_S) as client:
        for crowd in crowds:
            await crowd.size(client)
        for _ in range(rounds):
            await asyncio.gather(*(crowd.round(client) for crowd in crowds))


class _Crowd:
    """Requests to one model, more than it can admit.

    Attributes:
        waits: for each round Retry-After and the seconds until the refused request was admitted.
        answers: the statuses of the admitted requests.
    """

    def __init__(self, target: Target, model: str) -> None:
        self.model = model
        self.waits: list[tuple[int, float]] = []
        self.answers: Counter[int] = Counter()
        self._url = f"http://{target.host}:{target.port}{target.base_path}"
        self._items = 1

    async def size(self, client: httpx.AsyncClient) -> None:
        """Find the number of items that take about _WORK_S."""
        LOADS[self.model].some(1)  # reads the texts, which takes a second
        took_s = 0.0
        while took_s < _WORK_S / 2:
            self._items *= 2
            began_s = time.perf_counter()
            (await self._send(client)).raise_for_status()
            took_s = time.perf_counter() - began_s
        self._items = max(1, round(self._items * _WORK_S / took_s))

    async def round(self, client: httpx.AsyncClient) -> None:
        """Fill the queue; send what was refused again until it is admitted."""
        sent = [asyncio.create_task(self._send(client)) for _ in range(_CROWD)]
        await asyncio.sleep(_REFUSED_WITHIN_S)
        refused = [task for task in sent if task.done() and _after_s(task.result())]
        if not refused:
            raise RuntimeError(f"{self.model} admitted all of {_CROWD} requests")
        after_s, since_s = _after_s(refused[0].result()), time.perf_counter() - _REFUSED_WITHIN_S
        sent = [task for task in sent if task not in refused]
        while True:
            again_s = time.perf_counter()
            task = asyncio.create_task(self._send(client))
            await asyncio.wait([task], timeout=_REFUSED_WITHIN_S)
            if not (task.done() and _after_s(task.result())):
                break
            await asyncio.sleep(_POLL_S)
        self.waits.append((after_s, again_s - since_s))
        answers = await asyncio.gather(*sent, task)
        self.answers.update(answer.status_code for answer in answers)

    async def _send(self, client: httpx.AsyncClient) -> httpx.Response:
        request = LOADS[self.model].some(self._items)
        return await client.post(self._url + request.path, content=request.body)


def _after_s(answer: httpx.Response) -> int:
    """Return Retry-After; 0 if the request was not refused."""
    return int(answer.headers.get("Retry-After", 0))


def _check(*measurements: Measurement) -> None:
    errors = [one.errors for one in measurements if one.errors]
    if errors:
        raise RuntimeError(f"requests failed: {errors}")


MEASURES: dict[str, Callable[[Sequence[str], int, float], Iterator[Row]]] = {
    "search": search,
    "imports": imports,
    "overload": overload,
    "alone": alone,
}


def main() -> int:
    """Measure, and print a table; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.several", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--pairs", nargs="+", default=PAIRS, help="such as minilm+openai")
    parser.add_argument("--figures", nargs="+", default=list(MEASURES), choices=list(MEASURES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each timed window")
    options = parser.parse_args()
    met = True
    head = "| models | figure | asked | measured | rounds |\n|---|---|---|---|---|"
    print(head, flush=True)
    for pair in options.pairs:
        for figure in options.figures:
            measure = MEASURES[figure]
            for row in measure(pair.split("+"), options.rounds, options.seconds):
                print(f"| {pair} | {' | '.join(row[:-1])} |", flush=True)
                met &= row[-1]
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())

"""Measures the store of vectors (VECTOR_CACHE_URL): `python -m bench.shared_vectors`.

Three services of the same model run at once and are asked in turn: one with its memory alone, one
with a folder, one with Redis, where redis-server is installed. Images are 640x480 JPEGs of about
60 kB, all different.

    first import    processor time of the service for an input that nobody knows, over that without
                    a store
    import again    requests a second by 8 clients for images that the store holds and the memory
                    does not, over those for images that the memory holds
    faults          milliseconds that the 99th percentile of new texts is above the one without a
                    store, while Redis is frozen (SIGSTOP), gone, or full; from the 21st request on

A figure is the median over the rounds of the ratio, or the difference, in each round.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from bench import inputs, tiny, wire
from bench.client import Connection, Target
from bench.families import model_folder
from bench.load import Group, Timing, closed_loop, percentile
from bench.report import table
from bench.service import Service, free_port, running
from bench.wire import Request

_SIZE = (640, 480)
_CLIENTS = 8
_BURN_IN = 20  # inputs of each service before the first round
_TIMING = Timing(seconds=3, burn_in_s=0.5)
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_WRITTEN_S = 2.0  # after which the last vectors are in the store
_MEMORY = "memory"
_FIRST = 20  # requests that may notice a fault
_TEXTS_OF_FAULTS = 520
_FAULTS = {"frozen": (), "gone": (), "full": ("--maxmemory", "100kb")}

Services = Mapping[str, Service]


def image(number: int) -> Request:
    """Return the request for an image."""
    return wire.reference().image_request(_SIZE, number)


def text(number: int) -> Request:
    """Return the request for a text of ten words."""
    return wire.text_reference().text_request(inputs.text(number))


def cpu_s(service: Service) -> float:
    """Return the processor time of a service so far."""
    fields = Path(f"/proc/{service.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


async def ask_all(target: Target, requests: Iterator[Request]) -> None:
    """Send requests by several clients.

    Raises:
        RuntimeError: the service did not answer one.
    """

    async def client() -> None:
        connection = Connection(target)
        for request in requests:
            await connection.content(request)
        connection.close()

    await asyncio.gather(*(client() for _ in range(_CLIENTS)))


async def first_import(
    services: Services, numbers: Iterator[int], kind: str, rounds: int, count: int
) -> dict[str, list[float]]:
    """Return for each store the ratios of processor time, of inputs that are new to all."""
    request = image if kind == "image" else text
    ratios: dict[str, list[float]] = {name: [] for name in services if name != _MEMORY}
    for number in range(-1, rounds):
        new = list(itertools.islice(numbers, count if number >= 0 else _BURN_IN))
        spent: dict[str, float] = {}
        for name, service in services.items():
            began_s = cpu_s(service)
            await ask_all(service.target, map(request, new))
            await asyncio.sleep(0.3)  # the vectors that wait are written
            spent[name] = cpu_s(service) - began_s
        for name, found in ratios.items():
            if number >= 0:
                found.append(spent[name] / spent[_MEMORY])
    return ratios


async def import_again(
    services: Services, numbers: range, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Return for each service its requests a second, and over those of memory, in each round."""
    await ask_all(services[_MEMORY].target, map(image, numbers))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in services}
    for _ in range(rounds):
        rates = {}
        for name, service in services.items():
            requests = itertools.cycle([image(number) for number in numbers])
            group = Group(partial(next, requests), _CLIENTS)
            (measured,) = await closed_loop(service.target, [group], _TIMING)
            if measured.errors:
                raise RuntimeError(f"{name}: {measured.errors}")
            rates[name] = measured.rate_per_s
        for name, rate in rates.items():
            found[name].append((rate, rate / rates[_MEMORY]))
    return found


async def p99_ms(targets: Sequence[Target], numbers: Sequence[int]) -> list[float]:
    """Send each text to each service; return the 99th percentiles of the times after the first 20.

    Raises:
        RuntimeError: a service did not answer.
    """
    connections = [Connection(target) for target in targets]
    times_ms: list[list[float]] = [[] for _ in targets]
    for number in numbers:
        for connection, found in zip(connections, times_ms, strict=True):
            began_s = time.perf_counter()
            await connection.content(text(number))
            found.append(1e3 * (time.perf_counter() - began_s))
    for connection in connections:
        connection.close()
    return [percentile(found[_FIRST:], 99) for found in times_ms]


def fault_rows(folder: Path, rounds: int) -> Iterator[tuple[str, ...]]:
    """Yield a row for each fault of Redis: a model whose pass takes no time, beside one without."""
    for fault, options in _FAULTS.items():
        with redis_running(folder, *options) as (process, url):
            urls = {_MEMORY: "", "redis": url}
            with services_of(tiny.SETTINGS, urls, {}) as services:
                if fault == "frozen":
                    os.kill(process.pid, signal.SIGSTOP)
                elif fault == "gone":
                    process.kill()
                found = []
                targets = [service.target for service in services.values()]
                for number in range(rounds):
                    texts = range(number * _TEXTS_OF_FAULTS, (number + 1) * _TEXTS_OF_FAULTS)
                    without, behind = asyncio.run(p99_ms(targets, texts))
                    found.append(behind - without)
        yield "text", f"p99, Redis {fault}, ms above", "redis", _median(found)


@contextmanager
def redis_running(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a redis-server; yield the process and its URL."""
    port = free_port()
    command = ("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", *options)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder)
    try:
        yield process, f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


@contextmanager
def stores(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the URL of each store that there is here; Redis runs meanwhile."""
    urls = {_MEMORY: "", "file": f"file://{folder}/vectors"}
    if not shutil.which("redis-server"):
        print("redis-server is not installed: no figures of Redis")
        yield urls
        return
    with redis_running(folder) as (_, url):
        yield {**urls, "redis": url}


@contextmanager
def services_of(
    model: Mapping[str, str], urls: Mapping[str, str], settings: Mapping[str, str]
) -> Iterator[Services]:
    """Run a service for each store, those with one with more settings."""
    common = {**model, "LOG_LEVEL": "warning"}
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                running(
                    f"shared-{name}",
                    settings={**common, "VECTOR_CACHE_URL": url, **(settings if url else {})},
                )
            )
            for name, url in urls.items()
        }


def _median(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def measure(folder: Path, rounds: int, images: int, texts: int) -> Iterator[tuple[str, ...]]:
    """Measure everything; yield the rows of the table."""
    for kind, family, count in (("image", "openai", images), ("text", "minilm", texts)):
        own = folder / family
        own.mkdir()
        model = {
            "MODELS_DIR": str(model_folder(family)),
            "RUNTIME_CACHE_DIR": tiny.SETTINGS["RUNTIME_CACHE_DIR"],
        }
        with stores(own) as urls:
            with services_of(model, urls, {}) as services:
                numbers = itertools.count()
                found = asyncio.run(first_import(services, numbers, kind, rounds, count))
                for name, ratios in found.items():
                    yield kind, "first import, CPU", name, _median(ratios)
                time.sleep(_WRITTEN_S)
            if kind == "image":  # without memory every request is the first after a restart
                with services_of(model, urls, {"VECTOR_CACHE_SIZE": "0"}) as services:
                    again = asyncio.run(import_again(services, range(_BURN_IN, images), rounds))
                for name, of_rounds in again.items():
                    rate = statistics.median(rate for rate, _ in of_rounds)
                    ratio = _median([ratio for _, ratio in of_rounds])
                    yield kind, f"import again, {rate:.0f} a second", name, ratio
    if shutil.which("redis-server"):
        yield from fault_rows(folder, rounds)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser("bench.shared_vectors", description="Measure the store.")
    parser.add_argument("--rounds", type=int, default=5, help="a figure is the median over them")
    parser.add_argument("--images", type=int, default=100, help="that are new, in a round")
    parser.add_argument("--texts", type=int, default=1000, help="that are new, in a round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for row in measure(Path(folder), options.rounds, options.images, options.texts):
            print("  " + ", ".join(row), file=sys.stderr)
            rows.append(row)
    print(table(("input", "measured", "store", "over memory alone"), rows))


if __name__ == "__main__":
    main()

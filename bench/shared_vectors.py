"""Measures the store of vectors (VECTOR_CACHE_URL): `python -m bench.shared_vectors`.

Three services of the same model run at once and are asked in turn: one with its memory alone, one
with a folder, one with Redis, where redis-server is installed. Images are 640x480 JPEGs of about
60 kB, all different.

    first import    processor time of the service for an input that nobody knows, over that without
                    a store
    import again    requests a second by 8 clients for images that the store holds and the memory
                    does not, over those for images that the memory holds

A figure is the median over the rounds of the ratio in each round.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path

from bench import inputs, wire
from bench.client import Connection, Target
from bench.families import model_folder
from bench.load import Group, Timing, closed_loop
from bench.report import table
from bench.service import ROOT, Service, free_port, running
from bench.wire import Request

_SIZE = (640, 480)
_CLIENTS = 8
_BURN_IN = 20  # inputs of each service before the first round
_TIMING = Timing(seconds=3, burn_in_s=0.5)
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_WRITTEN_S = 2.0  # after which the last vectors are in the store
_MEMORY = "memory"

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
            status, content = await connection.ask(request)
            if status != HTTPStatus.OK:
                raise RuntimeError(f"status {status}: {content!r}")
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


@contextmanager
def stores(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the URL of each store that there is here; Redis runs meanwhile."""
    urls = {_MEMORY: "", "file": f"file://{folder}/vectors"}
    server = shutil.which("redis-server")
    if server is None:
        print("redis-server is not installed: no figures of Redis")
        yield urls
        return
    port = free_port()
    command = (server, "--port", str(port), "--bind", "127.0.0.1", "--save", "")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder)
    try:
        yield {**urls, "redis": f"redis://127.0.0.1:{port}/0"}
    finally:
        process.terminate()
        process.wait()


@contextmanager
def services_of(
    family: str, urls: Mapping[str, str], settings: Mapping[str, str]
) -> Iterator[Services]:
    """Run a service for each store."""
    common = {
        "MODELS_DIR": str(model_folder(family)),
        "RUNTIME_CACHE_DIR": str(ROOT / "build" / "bench-models" / "converted"),
        "LOG_LEVEL": "warning",
    }
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


def measure(folder: Path, rounds: int, images: int, texts: int) -> list[tuple[str, ...]]:
    """Measure everything; return the rows of the table."""
    rows: list[tuple[str, ...]] = []
    for kind, family, count in (("image", "openai", images), ("text", "minilm", texts)):
        own = folder / family
        own.mkdir()
        with stores(own) as urls:
            with services_of(family, urls, {}) as services:
                numbers = itertools.count()
                found = asyncio.run(first_import(services, numbers, kind, rounds, count))
                rows += [(kind, "first import, CPU", name, _median(r)) for name, r in found.items()]
                time.sleep(_WRITTEN_S)
            if kind == "image":  # without memory every request is the first after a restart
                with services_of(family, urls, {"VECTOR_CACHE_SIZE": "0"}) as services:
                    again = asyncio.run(import_again(services, range(_BURN_IN, images), rounds))
                for name, of_rounds in again.items():
                    rate = statistics.median(rate for rate, _ in of_rounds)
                    ratio = _median([ratio for _, ratio in of_rounds])
                    rows.append((kind, f"import again, {rate:.0f} a second", name, ratio))
    return rows


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser("bench.shared_vectors", description="Measure the store.")
    parser.add_argument("--rounds", type=int, default=5, help="a figure is the median over them")
    parser.add_argument("--images", type=int, default=100, help="that are new, in a round")
    parser.add_argument("--texts", type=int, default=1000, help="that are new, in a round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), options.rounds, options.images, options.texts)
    print(table(("input", "measured", "store", "over memory alone"), rows))


if __name__ == "__main__":
    main()

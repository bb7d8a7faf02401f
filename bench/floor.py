"""Measures the overhead of the service over its libraries for one text: `python -m bench.floor`.

One client sends requests to the service and to the floor (`floor_app.py`) in turn, in the same run
and with the same converted model, which is so small that its forward pass is the smaller part. For
each request:

    event loop      processor time of the main thread
    beside passes   processor time of the whole process, without forward passes
    wall            time from the request to the whole answer
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import orjson

from bench import inputs, tiny, wire
from bench.client import Connection
from bench.metered import read_seconds
from bench.report import table
from bench.service import Service, log_path, running
from bench.wire import Request

_BURN_IN = 300
_AGREE = 1e-5


class Cost(NamedTuple):
    """The cost of a request in microseconds; see the module."""

    event_loop: float
    beside_passes: float
    wall: float


Figures: TypeAlias = Mapping[str, Sequence[Sequence[Cost]]]  # by kind: rounds of (service, floor)


@dataclass(frozen=True)
class Metered:
    """A running server, and the file with the total time of its forward passes."""

    service: Service
    passes: Path

    def seconds(self) -> tuple[float, float, float]:
        """Return processor time of the main thread, of all threads without passes, and the time."""
        tasks = Path(f"/proc/{self.service.pid}/task")
        of_each = {path.parent.name: _on_cpu_s(path) for path in tasks.glob("*/schedstat")}
        beside = sum(of_each.values()) - read_seconds(self.passes)
        return of_each[str(self.service.pid)], beside, time.perf_counter()


def _on_cpu_s(schedstat: Path) -> float:
    # Nanoseconds, where `stat` has hundredths of a second.
    return int(schedstat.read_text().split()[0]) / 1e9


def computed() -> Iterator[Request]:
    """Yield requests of texts, none twice."""
    return (wire.reference().text_request(inputs.text(number)) for number in itertools.count())


def remembered(path: str) -> Iterator[Request]:
    """Yield requests of the same text."""
    return itertools.repeat(wire.reference().text_request(inputs.text(0))._replace(path=path))


async def measure(server: Metered, requests: Iterator[Request], count: int) -> Cost:
    """Send requests one after the other; return their average cost."""
    connection = Connection(server.service.target)
    try:
        await _ask(connection, requests, _BURN_IN)
        before = server.seconds()
        await _ask(connection, requests, count)
        after = server.seconds()
    finally:
        connection.close()
    return Cost(*(1e6 * (end - begin) / count for begin, end in zip(before, after, strict=True)))


async def _ask(connection: Connection, requests: Iterator[Request], count: int) -> bytes:
    content = b""
    for request in itertools.islice(requests, count):
        content = await connection.content(request)
    return content


async def run(service: Metered, floor: Metered, rounds: int, count: int) -> Figures:
    """Measure service and floor, computed and remembered, in several rounds.

    Raises:
        RuntimeError: service and floor return different vectors.
    """
    await _check_same(service, floor)
    measured = {
        "a text, computed": ((service, computed()), (floor, computed())),
        "a text, remembered": ((service, remembered("/vectorize")), (floor, remembered("/same"))),
    }
    found: dict[str, list[list[Cost]]] = {kind: [] for kind in measured}
    for _ in range(rounds):
        for kind, pair in measured.items():
            found[kind].append([await measure(*one, count) for one in pair])
    return found


async def _check_same(service: Metered, floor: Metered) -> None:
    connections = [Connection(one.service.target) for one in (service, floor)]
    answers = [orjson.loads(await _ask(one, computed(), 1)) for one in connections]
    for one in connections:
        one.close()
    own, least = (np.array(answer["textVectors"][0]) for answer in answers)
    if not np.allclose(own, least, atol=_AGREE):
        raise RuntimeError("This is a bug: the service and the floor answer different vectors")


def rows(figures: Figures) -> Iterator[tuple[str, ...]]:
    """Yield table rows of medians: service, floor, and their ratio."""
    for kind, rounds in figures.items():
        for place, name in enumerate(Cost._fields):
            own, least = (statistics.median(pair[i][place] for pair in rounds) for i in (0, 1))
            ratio = statistics.median(pair[0][place] / pair[1][place] for pair in rounds)
            yield kind, name.replace("_", " "), f"{own:.0f}", f"{least:.0f}", f"{ratio:.2f}"


@contextmanager
def _metered(name: str, target: str, settings: Mapping[str, str]) -> Iterator[Metered]:
    passes = log_path(name).with_suffix(".passes")
    command = (sys.executable, "-m", "bench.metered", str(passes), target)
    with running(name, command, settings) as service:
        yield Metered(service, passes)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser("bench.floor", description="Measure one text's overhead.")
    parser.add_argument("--rounds", type=int, default=5, help="a figure is the median over them")
    parser.add_argument("--requests", type=int, default=2000, help="of each kind in a round")
    options = parser.parse_args()
    folder = str(tiny.converted_folder())
    with (
        _metered("overhead", "app.py", tiny.SETTINGS) as service,
        _metered("floor", ":bench.floor_app", {"FOLDER": folder}) as floor,
    ):
        found = asyncio.run(run(service, floor, options.rounds, options.requests))
    print("Microseconds a request, of one client:\n")
    print(table(("one request", "", "service", "floor", "times"), list(rows(found))))


if __name__ == "__main__":
    main()

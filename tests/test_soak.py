"""Half an hour of mixed traffic: memory comes to rest, and every vector is still right.

SOAK_S shortens it; the curve of the memory is written to build/soak.csv.
"""

import asyncio
import csv
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from bench.client import Connection
from bench.service import resident_mb
from tests import crowd
from tests.crowd import Item, Known
from tests.service import ROOT, Service, running
from tests.test_chaos import items

SOAK_S = float(os.environ.get("SOAK_S", "1800"))
CURVE = ROOT / "build" / "soak.csv"
GROWTH_MB = 20.0  # between the second third and the last


async def watch_memory(service: Service, stop: asyncio.Event) -> list[tuple[float, float]]:
    """Note seconds and resident megabytes, a hundred times in all."""
    curve, begin_s = [], time.perf_counter()
    while not stop.is_set():
        memory_mb = resident_mb(service.process.pid, "VmRSS")
        curve.append((time.perf_counter() - begin_s, memory_mb))
        await asyncio.sleep(SOAK_S / 100)
    return curve


async def new_texts(service: Service, stop: asyncio.Event) -> int:
    """Send texts that nobody has sent before, so that the cache fills and turns over."""
    connection, number = Connection(crowd.target_of(service)), 0
    while not stop.is_set():
        number += 1
        answer = await connection.ask(crowd.request_of([Item("texts", f"text {number}")]))
        assert answer.status == 200
        await asyncio.sleep(0.01)
    connection.close()
    return number


async def good_until(service: Service, known: Known, stop: asyncio.Event) -> Counter[int]:
    total, seed = Counter[int](), 0
    while not stop.is_set():
        seed += 1
        total += await crowd.good(service, known, 10, seed)
        await asyncio.sleep(0.2)
    return total


async def soak(service: Service) -> tuple[list[tuple[float, float]], Counter[int]]:
    known = await crowd.learn(crowd.target_of(service), items())
    stop = asyncio.Event()
    memory = asyncio.create_task(watch_memory(service, stop))
    new = asyncio.create_task(new_texts(service, stop))
    misdeeds = asyncio.create_task(crowd.bad(service, stop, seed=0))
    good = [asyncio.create_task(good_until(service, known, stop)) for _ in range(2)]
    await asyncio.sleep(SOAK_S)
    stop.set()
    answers = sum(await asyncio.gather(*good), Counter[int]())
    await asyncio.gather(new, misdeeds)
    return await memory, answers


def figure(curve: list[tuple[float, float]]) -> str:
    """Draw a line for every twentieth of the time, and a mark for every 20 MB."""
    shown = curve[:: max(1, len(curve) // 20)]
    return "\n".join(f"{s / 60:5.1f} min {mb:6.0f} MB {'#' * round(mb / 20)}" for s, mb in shown)


@pytest.mark.long
@pytest.mark.timeout(2 * SOAK_S + 600)
def test_memory_comes_to_rest(tmp_path: Path) -> None:
    with running(tmp_path / "log", MODELS_DIR=ROOT / "demo/models") as service:
        curve, answers = asyncio.run(soak(service))
    CURVE.parent.mkdir(exist_ok=True)
    with CURVE.open("w", newline="") as file:
        csv.writer(file).writerows([("seconds", "resident_mb"), *curve])
    memory_mb = [megabytes for _, megabytes in curve]
    third = len(memory_mb) // 3
    print(f"{answers.total()} good answers\n{figure(curve)}")

    assert set(answers) == {200}
    assert max(memory_mb[2 * third :]) - max(memory_mb[third : 2 * third]) < GROWTH_MB

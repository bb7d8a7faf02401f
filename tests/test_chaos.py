"""Clients that misbehave beside clients that check every vector they get."""

import asyncio
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from machine import allow_many_connections
from tests import crowd
from tests.crowd import Item, Known
from tests.golden_cases import GOLDEN
from tests.image_files import base64_of
from tests.service import Service, running


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("chaos") / "log"
    # Without a cache, or most vectors would come from there.
    with running(log, MODELS_DIR=GOLDEN / "openai", VECTOR_CACHE_SIZE=0) as service:
        yield service


def items() -> list[Item]:
    images = sorted((GOLDEN / "images").iterdir())
    return [Item("texts", f"text number {number}") for number in range(60)] + [
        Item("images", base64_of(image.read_bytes())) for image in images
    ]


async def chaos(service: Service, clients: int, requests: int) -> tuple[Counter[int], Counter[str]]:
    """Let good and bad clients loose together; return the good ones' answers, and the bad deeds."""
    known = await crowd.learn(crowd.target_of(service), items())
    stop = asyncio.Event()
    bad = [asyncio.create_task(crowd.bad(service, stop, seed)) for seed in range(8)]
    idle = await open_connections(service, 2000)
    good = [crowd.good(service, known, requests // clients, seed) for seed in range(clients)]
    answers = sum(await asyncio.gather(*good), Counter[int]())
    stop.set()
    deeds = sum(await asyncio.gather(*bad), Counter[str]())
    for connection in idle:
        connection.close()
    await assert_same_as_before(service, known)
    return answers, deeds


async def assert_same_as_before(service: Service, known: Known) -> None:
    again = await crowd.learn(crowd.target_of(service), known.items)
    for item, vector in known.vectors.items():
        assert again.vectors[item].tolist() == pytest.approx(vector.tolist(), abs=crowd.TOLERANCE)


async def open_connections(service: Service, count: int) -> list[asyncio.StreamWriter]:
    allow_many_connections()
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    addresses = [("127.0.0.1", service.port)] * min(count, allowed - 300)
    return [(await asyncio.open_connection(*address))[1] for address in addresses]


def test_no_good_request_is_lost_or_gets_anothers_vector(service: Service) -> None:
    answers, deeds = asyncio.run(chaos(service, clients=64, requests=1280))

    assert answers == {200: 1280}
    assert set(deeds) == {misbehave.__name__ for misbehave in crowd.MISBEHAVIOURS}


def test_idle_connections_beyond_the_usual_number_of_files_keep_nobody_out(tmp_path: Path) -> None:
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed < 1000:
        pytest.skip(f"this machine allows {allowed} files")
    few = ("sh", "-c", f"ulimit -S -n 256; exec {sys.executable} app.py")
    with (
        running(tmp_path / "log", few, MODELS_DIR=GOLDEN / "openai") as service,
        ExitStack() as idle,
    ):
        for _ in range(500):
            idle.enter_context(service.connect()).connect()
        assert service.request("GET", "/.well-known/ready")[0] == 204
        assert service.vectorize(texts=["a"])[0] == 200


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_nor_is_one_in_twelve_thousand(service: Service) -> None:
    answers, deeds = asyncio.run(chaos(service, clients=64, requests=12_800))

    print(f"{answers.total()} good requests beside {deeds.total()} bad ones: {dict(deeds)}")
    assert answers == {200: 12_800}

"""Replicas behind the balancer while the worst befalls them: no object of an import is lost."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import crowd
from tests.balancer.envoy import Balancer, RuntimeName, balancing, by_connection
from tests.balancer.importer import SENDERS, Import, Imported, objects
from tests.balancer.names import NameServer
from tests.balancer.replica import Replica, last_core
from tests.crowd import Known
from tests.service import ROOT, free_port, running

DEMO = ROOT / "demo/models"
SILENCE_S = 10  # per_try_timeout of deploy/envoy.yaml


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    """Distinct objects, and the vectors that a lone replica gives."""
    log = tmp_path_factory.mktemp("lone") / "log"
    with running(log, MODELS_DIR=DEMO) as lone:
        return asyncio.run(crowd.learn(crowd.target_of(lone), objects(24 * SENDERS)))


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Replica]]:
    """Four replicas, three of which run."""
    folder, port = tmp_path_factory.mktemp("replicas"), free_port()
    # Without a cache, or most vectors would come from there.
    settings = {"MODELS_DIR": DEMO, "VECTOR_CACHE_SIZE": 0}
    addresses = [f"127.0.0.{number}" for number in range(31, 35)]
    four = [
        Replica(address, port, last_core(), folder / address, settings) for address in addresses
    ]
    try:
        for replica in four[:3]:
            replica.start()
        for replica in four[:3]:
            replica.wait_until_ready()
        yield four
    finally:
        for replica in four:
            replica.end()


class Story:
    """What happens to the replicas during an import, and how evenly they shared it.

    Attributes:
        spread: how far from an equal share of the answers a replica was at most, by when it was.
    """

    def __init__(
        self,
        known: Known,
        balancer: Balancer,
        names: NameServer,
        replicas: Sequence[Replica],
        calm_s: float,
    ) -> None:
        self.balancer = balancer
        self.spread: dict[str, float] = {}
        self._names, self._replicas = names, replicas
        self._calm_s = calm_s
        self._import = Import.of(balancer.target, known)

    def imports(self, story: Callable[[], None]) -> Imported:
        """Tell the story while Weaviate imports."""
        return self._import.during(story)

    def everything(self) -> None:
        first, second, third, fourth = self._replicas
        self.measure("three replicas", self._replicas[:3])
        self.restart(first)
        self.kill_and_start(second)
        self.freeze_and_wake(third)
        self.add(fourth)
        for replica in self._replicas:
            self.restart(replica)
        self.measure("four replicas, all restarted", self._replicas)

    def two_leave(self) -> None:
        first, second, third = self._replicas[:3]
        self.measure("three replicas", [first, second, third])
        self.restart(first)
        self.kill_and_start(second)
        self.measure("two replicas started anew", [first, second, third])

    def the_lone_one_restarts(self) -> None:
        (replica,) = self._replicas
        replica.strike(signal.SIGTERM)
        self._names.addresses.clear()  # as Docker forgets the name of what is stopped
        replica.wait_for_end()
        replica.start()
        replica.wait_until_ready()
        self._names.addresses.add(replica.address)
        self.balancer.wait_for(1)
        time.sleep(self._calm_s)

    def restart(self, replica: Replica) -> None:
        replica.stop()
        self.start(replica)

    def kill_and_start(self, replica: Replica) -> None:
        replica.strike(signal.SIGKILL)
        replica.wait_for_end()
        self.start(replica)

    def freeze_and_wake(self, replica: Replica) -> None:
        replica.strike(signal.SIGSTOP)
        time.sleep(2)
        with self._import.slowly():
            time.sleep(SILENCE_S)
        replica.wake()
        replica.wait_until_ready()

    def add(self, replica: Replica) -> None:
        self.start(replica)
        self._names.addresses.add(replica.address)

    def start(self, replica: Replica) -> None:
        """Start it while the import goes on slowly, until it is ready."""
        with self._import.slowly():
            replica.start()
            replica.wait_until_ready()

    def measure(self, when: str, replicas: Sequence[Replica]) -> None:
        """Count what each answers while nothing happens."""
        self.balancer.wait_for(len(replicas))
        before = [replica.answered() for replica in replicas]
        time.sleep(self._calm_s)
        shares = [replica.answered() - was for replica, was in zip(replicas, before, strict=True)]
        mean = sum(shares) / len(shares)
        self.spread[when] = max(abs(share - mean) for share in shares) / mean
        print(f"{when}: {shares}")


@contextmanager
def told(
    known: Known,
    replicas: Sequence[Replica],
    log: Path,
    calm_s: float,
    engine: RuntimeName = balancing,
) -> Iterator[Story]:
    """A story of three replicas, and of a fourth that may join them."""
    with (
        NameServer(replica.address for replica in replicas[:3]) as names,
        engine(log, names, replicas[0].port) as balancer,
    ):
        try:
            yield Story(known, balancer, names, replicas, calm_s)
        finally:
            for joined in replicas[3:]:
                joined.end()


def assert_nothing_lost(imported: Imported) -> None:
    assert not imported.lost
    assert imported.resent == 0  # nor left to Go's client
    assert imported.answered > 100


def assert_nothing_is_lost_and_the_load_is_even(story: Story) -> None:
    imported = story.imports(story.everything)
    print(f"{imported}, asked again: {story.balancer.asked_again()}, spread: {story.spread}")

    assert_nothing_lost(imported)
    assert story.balancer.asked_again() > 0  # there was something to lose
    assert imported.slowest_s < SILENCE_S + 5  # those that the frozen one had
    assert max(story.spread.values()) < 0.2


def test_no_object_is_lost_when_replicas_fail(
    known: Known, replicas: list[Replica], tmp_path: Path
) -> None:
    with told(known, replicas, tmp_path / "envoy", calm_s=4) as story:
        assert_nothing_is_lost_and_the_load_is_even(story)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_nor_is_one_in_more_than_a_minute(
    known: Known, replicas: list[Replica], tmp_path: Path
) -> None:
    with told(known, replicas, tmp_path / "envoy", calm_s=20) as story:
        assert_nothing_is_lost_and_the_load_is_even(story)


def test_spread_by_connection_objects_are_lost_and_the_load_is_uneven(
    known: Known, replicas: list[Replica], tmp_path: Path
) -> None:
    """Why there is a balancer."""
    with told(known, replicas, tmp_path / "envoy", calm_s=3, engine=by_connection) as story:
        imported = story.imports(story.two_leave)
    print(f"{imported}, spread: {story.spread}")

    assert imported.lost.total() > 0
    assert story.spread["two replicas started anew"] > 0.2


@pytest.mark.long
@pytest.mark.timeout(600)
def test_spread_by_connection_with_everything_that_happens(
    known: Known, replicas: list[Replica], tmp_path: Path
) -> None:
    with told(known, replicas, tmp_path / "envoy", calm_s=20, engine=by_connection) as story:
        imported = story.imports(story.everything)
    print(f"{imported}, spread: {story.spread}")

    assert imported.lost.total() > 0


def test_a_lone_replica_restarts_and_its_requests_wait(
    known: Known, replicas: list[Replica], tmp_path: Path
) -> None:
    with told(known, replicas[:1], tmp_path / "envoy", calm_s=1) as story:
        imported = story.imports(story.the_lone_one_restarts)
    print(imported)

    assert_nothing_lost(imported)
    assert imported.slowest_s > 0.5  # they did wait


def test_what_the_manifests_measure_is_measured(replicas: list[Replica]) -> None:
    manifests = (path.read_text() for path in (ROOT / "deploy/kubernetes").glob("*.yaml"))
    named = {name for text in manifests for name in re.findall(r"\binference_\w+", text)}

    assert named
    assert named - {"inference_model_loads_total"} <= replicas[0].metrics()  # that is on demand's

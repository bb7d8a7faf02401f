"""What the balancer asks of another replica, what it passes on: the table of docs/scaling.md."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import pytest

from bench.client import Answer, Connection
from bench.wire import Request
from tests.balancer.envoy import Balancer, balancing
from tests.balancer.names import NameServer
from tests.balancer.stand_in import Conduct, StandIn
from tests.service import free_port

SMALL, LARGE = 1_000, 90_000_000
TRIES = 200  # until the one at fault has been asked, as either may be chosen

IS_ASKED_OF_ANOTHER = (
    Conduct.REFUSES_429,
    Conduct.REFUSES_503,
    Conduct.REFUSES_429_EARLY,
    Conduct.DIES_WHILE_READING,
    Conduct.DIES_BEFORE_ANSWER,
)
IS_PASSED_ON = {Conduct.FAILS_422: 422, Conduct.FAILS_500: 500}


@asynccontextmanager
async def two_replicas(log: Path) -> AsyncIterator[tuple[Balancer, StandIn, StandIn]]:
    """A balancer, and two that answer until they are told to do otherwise."""
    port = free_port()
    faulty, good = (StandIn(address, port) for address in ("127.0.0.35", "127.0.0.36"))
    async with AsyncExitStack() as stack:
        for each in (faulty, good):
            await stack.enter_async_context(each.listening())
        names = stack.enter_context(NameServer([faulty.address, good.address]))
        starting = balancing(log, names, port)
        balancer = await asyncio.to_thread(starting.__enter__)
        stack.push_async_callback(asyncio.to_thread, starting.__exit__, None, None, None)
        yield balancer, faulty, good


async def ask_until_faulty_was_asked(
    balancer: Balancer, faulty: StandIn, body: bytes
) -> list[Answer]:
    answers, before = [], faulty.asked
    with closing(Connection(balancer.target)) as connection:
        for _ in range(TRIES):
            answers.append(await connection.ask(Request("POST", "/vectorize", body)))
            if faulty.asked > before:
                return answers
            await asyncio.sleep(0.02)  # it may be left alone for what it did before
    raise AssertionError(f"never asked: {faulty}")


def assert_all_have_the_whole(body: bytes, answers: list[Answer]) -> None:
    digest = hashlib.sha256(body).hexdigest()
    assert {answer.status for answer in answers} == {200}
    assert {json.loads(answer.body)["sha256"] for answer in answers} == {digest}


@pytest.mark.parametrize(
    ("size", "conducts"), [(SMALL, IS_ASKED_OF_ANOTHER), (LARGE, IS_ASKED_OF_ANOTHER[-3:])]
)
def test_what_has_no_answer_yet_is_asked_of_another(
    size: int, conducts: tuple[Conduct, ...], tmp_path: Path
) -> None:
    async def ask() -> None:
        body = os.urandom(size)
        async with two_replicas(tmp_path / "envoy") as (balancer, faulty, _):
            for conduct in conducts:
                faulty.conduct = conduct
                answers = await ask_until_faulty_was_asked(balancer, faulty, body)
                assert_all_have_the_whole(body, answers)

    asyncio.run(ask())


def test_what_is_answered_is_passed_on(tmp_path: Path) -> None:
    async def ask() -> None:
        async with two_replicas(tmp_path / "envoy") as (balancer, faulty, _):
            for conduct, status in IS_PASSED_ON.items():
                faulty.conduct = conduct
                *_, answer = await ask_until_faulty_was_asked(balancer, faulty, b"{}")
                assert (answer.status, json.loads(answer.body)["error"]) == (status, conduct.value)
            faulty.conduct = Conduct.DIES_IN_ANSWER
            with pytest.raises(ConnectionError):
                await ask_until_faulty_was_asked(balancer, faulty, b"{}")

    asyncio.run(ask())


def test_a_probe_is_not_held_when_nobody_is_there(tmp_path: Path) -> None:
    """And what the balancer itself has to say is JSON with an `error`, as Weaviate reads it."""

    async def ask() -> None:
        async with two_replicas(tmp_path / "envoy") as (balancer, faulty, good):
            with closing(Connection(balancer.target)) as connection:
                ready = await connection.ask(Request("GET", "/.well-known/ready"))
                assert ready.status == 204
                faulty.ready = good.ready = False
                await asyncio.to_thread(balancer.wait_for, 0)
                async with asyncio.timeout(0.5):  # as long as Weaviate gives it
                    answer = await connection.ask(Request("GET", "/.well-known/ready"))
        assert answer.status == 503
        assert json.loads(answer.body)["error"].startswith("balancer: ")

    asyncio.run(ask())


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_what_a_frozen_one_has_is_asked_of_another(size: int, tmp_path: Path) -> None:
    async def ask() -> None:
        body = os.urandom(size)
        async with two_replicas(tmp_path / "envoy") as (balancer, faulty, _):
            faulty.conduct = Conduct.FREEZES
            answers = await ask_until_faulty_was_asked(balancer, faulty, body)
            assert_all_have_the_whole(body, answers)

    asyncio.run(ask())

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from errors import BackendError
from inference.fair_queue import Caller, Party
from inference.vector_cache import CacheStats, Compute, VectorCache, value_of

pytestmark = pytest.mark.anyio


class Source:
    """Computes values that wait for a gate, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0
        self.cancelled = 0
        self.parties: list[Party] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def of(self, value: int) -> Compute[int]:
        def compute(party: Party) -> Coroutine[Any, Any, int]:
            self.calls += 1
            self.parties.append(party)
            return self._wait(value)

        return compute

    async def _wait(self, value: int) -> int:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return value


async def ask(
    cache: VectorCache[int], compute: Compute[int], key: bytes = b"a", caller: Any = None
) -> int:
    outcomes = await cache.outcomes({key: compute}, caller or Caller())
    return value_of(outcomes[key])


async def test_a_repeat_is_answered_from_memory() -> None:
    cache: VectorCache[int] = VectorCache(2)
    source = Source()

    assert await ask(cache, source.of(1)) == 1
    assert await ask(cache, source.of(2)) == 1
    assert source.calls == 1
    assert cache.stats == CacheStats(hits=1, shared=0, misses=1, size=1)


async def test_equal_inputs_in_flight_share_one_computation() -> None:
    cache: VectorCache[int] = VectorCache(0)
    source = Source()
    source.gate.clear()
    waiters = [asyncio.create_task(ask(cache, source.of(1))) for _ in range(3)]
    await asyncio.sleep(0)
    assert cache.knows(b"a")
    assert len(source.parties[0].callers) == 3
    source.gate.set()

    assert await asyncio.gather(*waiters) == [1, 1, 1]
    assert source.calls == 1
    assert not cache.knows(b"a")
    assert cache.stats == CacheStats(hits=0, shared=2, misses=1)


async def test_the_least_recently_used_is_forgotten_first() -> None:
    cache: VectorCache[int] = VectorCache(2)
    source = Source()
    for key in (b"a", b"b", b"a", b"c"):
        await ask(cache, source.of(1), key)
    calls = source.calls

    await ask(cache, source.of(1), b"a")
    assert source.calls == calls
    await ask(cache, source.of(1), b"b")
    assert source.calls == calls + 1
    assert cache.stats.size == 2


async def test_values_are_weighed_and_one_that_is_too_heavy_is_not_remembered() -> None:
    cache: VectorCache[int] = VectorCache(10, weigh=lambda value: value)
    source = Source()
    await ask(cache, source.of(6), b"a")
    await ask(cache, source.of(11), b"too heavy")
    assert cache.knows(b"a")
    await ask(cache, source.of(5), b"b")

    assert (cache.knows(b"a"), cache.knows(b"b")) == (False, True)
    await ask(cache, source.of(5), b"c")
    assert (cache.knows(b"b"), cache.knows(b"c")) == (True, True)


async def test_no_capacity_means_nothing_is_remembered() -> None:
    cache: VectorCache[int] = VectorCache(0)
    source = Source()
    await ask(cache, source.of(1))
    await ask(cache, source.of(1))

    assert source.calls == 2


async def fail() -> int:
    raise ValueError("no")


async def test_a_failure_reaches_all_and_is_not_remembered() -> None:
    cache: VectorCache[int] = VectorCache(2)
    outcomes = await asyncio.gather(
        *(ask(cache, lambda _: fail()) for _ in range(2)), return_exceptions=True
    )

    assert [str(outcome) for outcome in outcomes] == ["no", "no"]
    assert await ask(cache, Source().of(1)) == 1


async def test_after_a_failure_the_others_are_not_waited_for() -> None:
    cache: VectorCache[int] = VectorCache(2)
    source = Source()
    source.gate.clear()
    outcomes = await cache.outcomes({b"a": source.of(1), b"b": lambda _: fail()}, Caller())
    await asyncio.sleep(0)

    assert list(outcomes) == [b"b"]
    assert source.cancelled == 1


async def test_a_computation_that_is_cancelled_is_an_error_and_no_hang() -> None:
    cache: VectorCache[int] = VectorCache(2)

    async def cancelled() -> int:
        raise asyncio.CancelledError

    with pytest.raises(BackendError, match="cancelled"):
        await asyncio.wait_for(ask(cache, lambda _: cancelled()), 5)


async def test_one_who_leaves_does_not_stop_the_others() -> None:
    cache: VectorCache[int] = VectorCache(2)
    source = Source()
    source.gate.clear()
    gone, kept = (asyncio.create_task(ask(cache, source.of(1))) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    source.gate.set()

    assert await kept == 1
    assert source.cancelled == 0


async def test_a_computation_that_nobody_waits_for_is_given_up() -> None:
    cache: VectorCache[int] = VectorCache(2)
    source = Source()
    source.gate.clear()
    gone = asyncio.create_task(ask(cache, source.of(1)))
    await asyncio.sleep(0.01)
    gone.cancel()
    await asyncio.wait([gone])
    newcomer = asyncio.create_task(ask(cache, source.of(2)))
    await asyncio.sleep(0.01)
    source.gate.set()

    assert source.cancelled == 1
    assert await newcomer == 2


async def test_the_parts_of_a_computation_have_its_callers_as_they_come_and_go() -> None:
    wholes: VectorCache[int] = VectorCache(0)
    parts: VectorCache[int] = VectorCache(0)
    source = Source()
    source.gate.clear()

    async def whole(party: Party) -> int:
        outcomes = await parts.outcomes({b"1": source.of(1), b"2": source.of(2)}, party)
        return sum(map(value_of, outcomes.values()))

    first, second = Caller(), Caller()
    asked = [asyncio.create_task(ask(wholes, whole, caller=one)) for one in (first, second)]
    await asyncio.sleep(0.01)
    assert [party.callers for party in source.parties] == [[first, second]] * 2

    asked[0].cancel()
    await asyncio.sleep(0.01)
    assert [party.callers for party in source.parties] == [[second]] * 2
    asked[1].cancel()
    await asyncio.sleep(0.01)
    assert source.cancelled == 2

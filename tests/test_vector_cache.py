import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from inference.vector_cache import CacheStats, VectorCache

pytestmark = pytest.mark.anyio


class Source:
    """Computes values that wait for a gate, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0
        self.cancelled = 0
        self.gate = asyncio.Event()
        self.gate.set()

    def of(self, value: int) -> Callable[[], Coroutine[Any, Any, int]]:
        async def compute() -> int:
            self.calls += 1
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            return value

        return compute


async def test_a_repeat_is_answered_from_memory() -> None:
    cache: VectorCache[int] = VectorCache(2)
    source = Source()

    assert await cache.get_or_compute(b"a", source.of(1)) == 1
    assert await cache.get_or_compute(b"a", source.of(2)) == 1
    assert source.calls == 1
    assert cache.stats == CacheStats(hits=1, shared=0, misses=1, size=1)


async def test_equal_inputs_in_flight_share_one_computation() -> None:
    cache: VectorCache[int] = VectorCache(0)
    source = Source()
    source.gate.clear()
    waiters = [asyncio.create_task(cache.get_or_compute(b"a", source.of(1))) for _ in range(3)]
    await asyncio.sleep(0)
    source.gate.set()

    assert await asyncio.gather(*waiters) == [1, 1, 1]
    assert source.calls == 1
    assert cache.stats == CacheStats(hits=0, shared=2, misses=1)


async def test_the_least_recently_used_is_forgotten_first() -> None:
    cache: VectorCache[int] = VectorCache(2)
    source = Source()
    for key in (b"a", b"b", b"a", b"c"):
        await cache.get_or_compute(key, source.of(1))
    calls = source.calls

    await cache.get_or_compute(b"a", source.of(1))
    assert source.calls == calls
    await cache.get_or_compute(b"b", source.of(1))
    assert source.calls == calls + 1
    assert cache.stats.size == 2


async def test_no_entries_means_nothing_is_remembered() -> None:
    cache: VectorCache[int] = VectorCache(0)
    source = Source()
    await cache.get_or_compute(b"a", source.of(1))
    await cache.get_or_compute(b"a", source.of(1))

    assert source.calls == 2


async def test_a_failure_reaches_all_and_is_not_remembered() -> None:
    cache: VectorCache[int] = VectorCache(2)

    async def fail() -> int:
        raise ValueError("no")

    outcomes = await asyncio.gather(
        *(cache.get_or_compute(b"a", fail) for _ in range(2)), return_exceptions=True
    )

    assert [str(outcome) for outcome in outcomes] == ["no", "no"]
    assert await cache.get_or_compute(b"a", Source().of(1)) == 1


async def test_one_who_leaves_does_not_stop_the_others() -> None:
    cache: VectorCache[int] = VectorCache(2)
    source = Source()
    source.gate.clear()
    gone, kept = (asyncio.create_task(cache.get_or_compute(b"a", source.of(1))) for _ in range(2))
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
    gone = asyncio.create_task(cache.get_or_compute(b"a", source.of(1)))
    await asyncio.sleep(0.01)
    gone.cancel()
    await asyncio.wait([gone])
    newcomer = asyncio.create_task(cache.get_or_compute(b"a", source.of(2)))
    await asyncio.sleep(0.01)
    source.gate.set()

    assert source.cancelled == 1
    assert await newcomer == 2

import numpy as np

from backends.model import EmbeddingResult, EncodeParams
from inference.request import RequestContext
from inference.timings import ItemTimes
from inference.vector_cache import CacheStats, RowMemory, VectorCache
from inference.work import ChunkInputs, WorkItem

VECTOR_BYTES = 4 * 100
ROW_BYTES = VECTOR_BYTES + 300


def item_of(key: bytes) -> WorkItem:
    return WorkItem("text", key.decode(), EncodeParams(), key, ItemTimes())


def embedded(value: float) -> EmbeddingResult:
    return EmbeddingResult(np.full(100, value, np.float32))


def computed(item: WorkItem, value: float) -> WorkItem:
    """End an item as its pipeline does."""
    item.expect_rows(ChunkInputs([]), [embedded(value)])
    item.result = item.rows[0]
    return item


def remember(cache: VectorCache, key: bytes, value: float = 1) -> None:
    item = item_of(key)
    cache.add(item)
    cache.settle(computed(item, value))


def value_of(cache: VectorCache, key: bytes) -> float | None:
    vectors = cache.get([item_of(key)]).vectors
    return float(vectors[key].vector[0]) if vectors else None


def test_a_repeat_is_answered_from_memory() -> None:
    cache = VectorCache(2)
    remember(cache, b"a", 7)

    assert value_of(cache, b"a") == 7
    assert value_of(cache, b"b") is None
    assert cache.stats == CacheStats(hits=1, shared=0, misses=1, size=1)


def test_an_equal_input_joins_the_item_in_flight() -> None:
    cache = VectorCache(0)
    first, second = item_of(b"a"), item_of(b"a")
    cache.add(first)
    lookup = cache.get([second, item_of(b"b")])

    assert lookup.in_flight == {b"a": first}
    assert list(lookup.misses) == [b"b"]
    assert cache.stats == CacheStats(hits=0, shared=1, misses=1)
    computed(first, 3)
    assert cache.get([item_of(b"a")]).in_flight == {b"a": first}  # it has its rows
    cache.settle(first)
    assert list(cache.get([item_of(b"a")]).misses) == [b"a"]


def test_equal_inputs_of_one_request_are_one_miss() -> None:
    items = [item_of(b"a"), item_of(b"b"), item_of(b"a")]
    lookup = VectorCache(2).get(items)

    assert lookup.misses == {b"a": items[0], b"b": items[1]}


def test_a_second_level_answers_misses_and_what_came_meanwhile_is_taken() -> None:
    kept: list[tuple[bytes, float]] = []
    cache = VectorCache(2, lambda key, result: kept.append((key, float(result.vector[0]))))
    lookup = cache.get([item_of(key) for key in (b"stored", b"joined", b"known", b"new")])
    remember(cache, b"known", 5)  # while the store is read
    flight = item_of(b"joined")
    cache.add(flight)
    cache.take(lookup, {b"stored": embedded(3), b"another's": embedded(4)})

    assert list(lookup.misses) == [b"new"]
    assert lookup.in_flight == {b"joined": flight}
    assert {key: float(found.vector[0]) for key, found in lookup.vectors.items()} == {
        b"stored": 3,
        b"known": 5,
    }
    assert value_of(cache, b"stored") == 3
    assert value_of(cache, b"another's") is None
    assert kept == [(b"known", 5)]  # what was computed, and nothing that the store had
    assert cache.stats == CacheStats(hits=2, shared=1, misses=2, size=2)


def test_a_second_level_without_a_first_remembers_nothing() -> None:
    kept: list[bytes] = []
    cache = VectorCache(0, lambda key, _: kept.append(key))
    lookup = cache.get([item_of(b"a")])
    cache.take(lookup, {b"a": embedded(3)})
    remember(cache, b"b")

    assert list(lookup.vectors) == [b"a"]
    assert value_of(cache, b"a") is None
    assert kept == [b"b"]


def test_the_least_recently_used_is_forgotten_first() -> None:
    cache = VectorCache(2)
    for key in (b"a", b"b"):
        remember(cache, key)
    value_of(cache, b"a")
    remember(cache, b"c")

    assert [value_of(cache, key) for key in (b"a", b"b", b"c")] == [1, None, 1]
    assert cache.stats.size == 2


def test_no_capacity_means_that_no_vector_is_remembered() -> None:
    cache = VectorCache(0)
    remember(cache, b"a")

    assert value_of(cache, b"a") is None
    assert cache.stats.size == 0


def test_an_item_that_failed_or_was_given_up_is_neither_remembered_nor_joined() -> None:
    cache = VectorCache(2)
    failed, given_up, request = item_of(b"a"), item_of(b"b"), RequestContext()
    for item in (failed, given_up):
        cache.add(item)
        item.join(request)
    failed.fail(ValueError("no"))
    given_up.leave(request)
    lookup = cache.get([item_of(b"a"), item_of(b"b")])
    for item in (failed, given_up):
        cache.settle(item)

    assert set(lookup.misses) == {b"a", b"b"}
    assert set(cache.get([item_of(b"a"), item_of(b"b")]).misses) == {b"a", b"b"}


def test_what_is_settled_late_takes_no_place_of_a_newer_item() -> None:
    cache = VectorCache(2)
    old, new = item_of(b"a"), item_of(b"a")
    cache.add(old)
    old.fail(ValueError("no"))
    cache.add(new)
    cache.settle(old)

    assert cache.get([item_of(b"a")]).in_flight == {b"a": new}


def test_rows_are_remembered_within_bytes_those_used_last() -> None:
    rows = RowMemory(2 * ROW_BYTES)
    for key in (b"a", b"b"):
        rows.put(("space", key), embedded(1))
    rows.get(("space", b"a"))
    rows.put(("space", b"c"), embedded(1))

    kept = [rows.get(("space", key)) is not None for key in (b"a", b"b", b"c")]
    assert kept == [True, False, True]
    assert rows.get(("another", b"c")) is None
    rows.put(("space", b"too large"), EmbeddingResult(np.zeros(1000, np.float32)))
    assert rows.get(("space", b"too large")) is None
    assert rows.get(("space", b"c")) is not None

"""The second level of the vector cache: a store behind the cache in memory, which never blocks.

    find -> reads -> a thread: one call for all that wait -> answers, at most timeout_s later
                               then the entries that follow, if reads are in order -> ahead
    add  -> pending, bounded -> another thread: a batch at a time, without a deadline

After several failures in a row, requests skip the store. The reader's thread tries to reconnect
once a second. This module knows no wire format and no kind of store.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import NamedTuple, ParamSpec, TypeAlias, TypeVar

from backends.model import EmbeddingResult
from inference.observers import Observers
from inference.store.base import Entry, Store, StoreError, Usage
from inference.store.entry import EntryFormat

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

Found: TypeAlias = Mapping[bytes, EmbeddingResult]

_NOTHING: Found = {}
_MAX_PENDING_BYTES = 32_000_000  # maximum memory of the write queue
_ENTRY_BYTES = 300  # memory of an entry in the queue, beside its vector
_WRITTEN_AT_ONCE = 128
_READ_AT_ONCE = 64  # calls of `find`
_MAX_AHEAD = 256  # entries that were read ahead
_GATHER_S = 0.05  # vectors that arrive meanwhile are written together
_FAILURES_TO_REST = 5  # in a row; a single failure may be a slow moment
_RETRY_S = 1.0
# A read waits at most this many times `timeout_s`, if the machine and not the store is slow.
_PATIENCE = 10
_USAGE_EVERY_S = 15.0
_WRITE_TIMEOUT_S = 2.0
_FIRST_S, _LAST_S = 2.0, 2.0  # seconds to wait for the store at startup, and for writes at shutdown

MakeStore: TypeAlias = Callable[[float], Store]


@dataclass
class StoreStats:
    """Counts of the shared cache.

    Attributes:
        hits: inputs found in the store.
        misses: inputs not found.
        invalid: values with a wrong format or digest; they count as misses too.
        timeouts: reads that timed out.
        errors: failures of the store.
        written: vectors written.
        dropped: vectors not written, as the write queue was full.
        usage: last known usage of the store.
    """

    hits: int = 0
    misses: int = 0
    invalid: int = 0
    timeouts: int = 0
    errors: int = 0
    written: int = 0
    dropped: int = 0
    usage: Usage = field(default_factory=Usage)


class _Read(NamedTuple):
    keys: Sequence[bytes]
    answer: asyncio.Future[Found]


class SharedCache:
    """Reads and writes vectors in a store, by threads of its own.

    Args:
        shown: the store's URL without its secret.
        make_store: function that makes a store with a timeout in seconds.
        entries: the format of keys and values.
        timeout_s: maximum wait of a request for the store.

    Attributes:
        shown: the store's URL without its secret.
        stats: counts of reads and writes.
        reads: observers of the duration of each call that reads.
    """

    def __init__(
        self, shown: str, make_store: MakeStore, entries: EntryFormat, timeout_s: float
    ) -> None:
        self.shown = shown
        self.stats = StoreStats()
        self.reads: Observers[[float]] = Observers()
        self._make_store = make_store
        self._entries = entries
        self._timeout_s = timeout_s
        self._is_up = False
        self._failures = 0
        self._failing: set[str] = set()
        self._unread: SimpleQueue[_Read | None] = SimpleQueue()
        self._reading_since_s: float | None = None
        self._ahead: dict[bytes, bytes] = {}  # entries of the store that were read ahead
        self._pending: deque[tuple[bytes, EmbeddingResult]] = deque()
        self._max_pending = _MAX_PENDING_BYTES // (4 * entries.dimensions + _ENTRY_BYTES)
        self._has_pending = Event()
        self._closed = Event()
        self._threads: list[Thread] = []

    @property
    def is_connected(self) -> bool:
        """Whether requests use the store; after several failures in a row they skip it."""
        return self._is_up

    async def open(self) -> None:
        """Connect; if the store does not answer, the service starts without it."""
        self._loop = asyncio.get_running_loop()
        self._first: asyncio.Future[None] = self._loop.create_future()
        self._has_pending.set()  # so that the writer reads the store's usage
        for name, work in (("reader", self._read_all), ("writer", self._write_all)):
            self._threads.append(Thread(target=work, name=f"store-{name}", daemon=True))
            self._threads[-1].start()
        await asyncio.wait([self._first], timeout=_FIRST_S)

    async def find(self, keys: Sequence[bytes]) -> Found:
        """Return the stored results by key; empty if the store does not answer in time.

        The results may include keys of other requests, which were read together.

        Args:
            keys: cache keys of items.
        """
        if not self._is_up:
            return _NOTHING
        found = self._take_ahead(keys)
        unknown = [key for key in keys if key not in found]
        if unknown:
            found = {**found, **await self._read_in_thread(unknown)}
        hits = sum(key in found for key in keys)
        self.stats.hits += hits
        self.stats.misses += len(keys) - hits
        return found

    def _take_ahead(self, items: Sequence[bytes]) -> Found:
        """Return the results of items whose entries were read ahead."""
        found = {}
        if self._ahead:
            for item in items:
                key = self._entries.key(item)
                value = self._ahead.pop(key, None)
                if value is not None and (result := self._entries.decode(key, value)):
                    found[item] = result
        return found

    async def _read_in_thread(self, keys: Sequence[bytes]) -> Found:
        answer: asyncio.Future[Found] = self._loop.create_future()
        timer = self._loop.call_later(
            self._timeout_s, self._give_up, answer, time.monotonic() + _PATIENCE * self._timeout_s
        )
        self._unread.put(_Read(keys, answer))
        try:
            return await answer
        finally:
            timer.cancel()

    def _give_up(self, answer: asyncio.Future[Found], ends_s: float) -> None:
        """Answer a read with no results if the store hangs or the read's time is over.

        A store that is only slow raises an error in the reader's thread. If the thread has neither
        an answer nor an error yet, it waits for a processor core. Then the read waits longer, as
        computing the vector would take longer still.
        """
        if answer.done():
            return
        now_s, since_s = time.monotonic(), self._reading_since_s
        hangs = since_s is not None and now_s - since_s >= 2 * self._timeout_s
        if not hangs and now_s < ends_s:
            self._loop.call_later(self._timeout_s, self._give_up, answer, ends_s)
            return
        answer.set_result(_NOTHING)
        self.stats.timeouts += 1
        if hangs:
            self._read_failed(f"no answer within {self._timeout_s * 1000:g} ms")

    def add(self, key: bytes, result: EmbeddingResult) -> None:
        """Queue a result for the writer's thread; drop the result if the queue is full."""
        if len(self._pending) >= self._max_pending:
            self.stats.dropped += 1
            return
        self._pending.append((key, result))
        if not self._has_pending.is_set():
            self._has_pending.set()

    # The reader's thread, and its calls on the event loop.

    def _read_all(self) -> None:
        store = self._make_store(self._timeout_s)
        while not self._closed.is_set():
            if not self._is_up:
                _, failure = _try(store.open)
                self._is_up = failure is None
                self._on_loop(self._tried_to_open, failure)
                if failure:
                    self._closed.wait(_RETRY_S)
                continue
            batch = self._next_reads()
            if batch:
                self._reading_since_s = began_s = time.monotonic()
                found, failure = self._read(store, batch)
                self._on_loop(self._deliver, batch, found, failure, time.monotonic() - began_s)
                if found:
                    self._reading_since_s = time.monotonic()
                    self._read_ahead(store)
                self._reading_since_s = None
            del batch  # frees the reads while the thread waits for the next
        store.close()

    def _next_reads(self) -> list[_Read]:
        """Wait for a read, and return all waiting reads; empty if the thread was only woken."""
        taken = [self._unread.get()]
        with suppress(Empty):
            while len(taken) < _READ_AT_ONCE:
                taken.append(self._unread.get_nowait())
        return [read for read in taken if read is not None and not read.answer.done()]

    def _read(self, store: Store, batch: Sequence[_Read]) -> tuple[Found, str | None]:
        items = list(dict.fromkeys(key for read in batch for key in read.keys))
        keys = [self._entries.key(item) for item in items]
        values, failure = _try(store.read, keys)
        if values is None:
            return _NOTHING, failure
        found = {}
        for item, key, value in zip(items, keys, values, strict=True):
            if value is None:
                continue
            if result := self._entries.decode(key, value):
                found[item] = result
            else:
                self.stats.invalid += 1
        return found, None

    def _read_ahead(self, store: Store) -> None:
        entries, failure = _try(store.read_ahead)
        if failure:
            self._on_loop(self._read_failed, failure)
        elif entries:
            self._on_loop(self._keep_ahead, entries)

    def _keep_ahead(self, entries: Sequence[Entry]) -> None:
        self._ahead.update(entries)
        while len(self._ahead) > _MAX_AHEAD:
            del self._ahead[next(iter(self._ahead))]

    def _deliver(
        self, batch: Sequence[_Read], found: Found, failure: str | None, seconds: float
    ) -> None:
        self.reads(seconds)
        if failure:
            self._read_failed(failure)
        else:
            self._failures = 0
        for read in batch:
            if not read.answer.done():
                read.answer.set_result(found)

    def _read_failed(self, why: str) -> None:
        self.stats.errors += 1
        self._failures += 1
        if self._failures >= _FAILURES_TO_REST and self._is_up:
            self._is_up = False
            self._unread.put(None)  # wakes the thread, which may wait for a read
            self._log_once("reads", why)

    def _tried_to_open(self, failure: str | None) -> None:
        self._failures = 0
        self.stats.errors += failure is not None
        self._log_once("reads", failure)
        if not self._first.done():
            self._first.set_result(None)
            if failure is None:
                logger.info("Vectors are kept in %s", self.shown)

    def _log_once(self, side: str, failure: str | None) -> None:
        """Log once that the store fails, and once that it works again."""
        if failure is None:
            if side in self._failing:
                self._failing.remove(side)
                if not self._failing:
                    logger.info("The vector cache %s works again", self.shown)
            return
        if not self._failing:
            logger.warning(
                "The vector cache %s fails: %s. Vectors are computed without it, and it is "
                "tried again every second",
                self.shown,
                failure,
            )
        self._failing.add(side)

    def _on_loop(self, call: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(call, *arguments)

    # The writer's thread.

    def _write_all(self) -> None:
        store = self._make_store(_WRITE_TIMEOUT_S)
        is_open, seen_s, max_entries = False, 0.0, _WRITTEN_AT_ONCE
        while True:
            self._has_pending.wait(_USAGE_EVERY_S)
            self._has_pending.clear()
            is_last = self._closed.wait(_GATHER_S)
            failure = None
            if not is_open:
                _, failure = _try(store.open)
            is_open = failure is None
            while is_open and self._pending and not failure:
                failure = self._write_some(store, max_entries)
                # A full store is tried with one entry.
                max_entries = 1 if failure else _WRITTEN_AT_ONCE
            if is_open and not failure and time.monotonic() - seen_s >= _USAGE_EVERY_S:
                seen_s = time.monotonic()
                usage, failure = _try(store.usage)
                self.stats.usage = usage or self.stats.usage
            self._on_loop(self._write_ended, failure)
            if is_last:
                break
            if failure:
                is_open = False
                self._closed.wait(_RETRY_S)
                self._has_pending.set()
        store.close()

    def _write_some(self, store: Store, max_entries: int) -> str | None:
        """Write a batch of the queue; if the store fails, requeue it and return the failure."""
        taken = [self._pending.popleft() for _ in range(min(max_entries, len(self._pending)))]
        entries: list[Entry] = []
        for item_key, result in taken:
            key = self._entries.key(item_key)
            with suppress(ValueError):  # wrong dimensions: never stored
                entries.append((key, self._entries.encode(key, result)))
        _, failure = _try(store.write, entries)
        if failure:
            self._pending.extendleft(reversed(taken))
        else:
            self.stats.written += len(entries)
        return failure

    def _write_ended(self, failure: str | None) -> None:
        self.stats.errors += failure is not None
        self._log_once("writes", failure)

    async def aclose(self) -> None:
        """Write the queue, within two seconds, and stop."""
        self._closed.set()
        self._has_pending.set()
        self._unread.put(None)
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        ends_s = time.monotonic() + _LAST_S
        for thread in self._threads:
            thread.join(max(0.0, ends_s - time.monotonic()))


def _try(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> tuple[R | None, str | None]:
    """Call a function of a store; return its result, or None and its failure as a message."""
    try:
        return call(*args, **kwargs), None
    except StoreError as error:
        return None, str(error)
    except Exception as error:  # noqa: BLE001 - a bug must not end the thread, nor show a secret
        return None, f"a bug ({type(error).__name__})"

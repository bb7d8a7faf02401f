"""Writes vectors into the store of a folder: `python -m tests.store_writer FOLDER FIRST COUNT`.

`COUNT` of 0 writes until it is killed. With `kills` in the place of FIRST it kills so many others.
"""

import os
import random
import re
import signal
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np

from backends.model import EmbeddingResult
from inference.store.base import Entry, Store, StoreError
from inference.store.entry import EntryFormat
from inference.store.file_store import FileStore

DIMENSIONS = 64
ENTRIES = EntryFormat(DIMENSIONS, {"numpy": "1"}, "a secret")
MAX_BYTES = 100_000_000
BATCH = 20


def key_of(number: int) -> bytes:
    return ENTRIES.key(sha256(b"%d" % number).digest())


def result_of(number: int) -> EmbeddingResult:
    vector = np.random.default_rng(number).random(DIMENSIONS, np.float32)
    return EmbeddingResult(vector, number % 77, number % 2 == 0)


def entries(first: int, count: int) -> list[Entry]:
    numbers = range(first, first + count)
    return [(key_of(one), ENTRIES.encode(key_of(one), result_of(one))) for one in numbers]


def store_of(folder: Path) -> FileStore:
    return FileStore(folder, MAX_BYTES, timeout_s=5)


def is_right(number: int, value: bytes) -> bool:
    result, meant = ENTRIES.decode(key_of(number), value), result_of(number)
    return bool(result and (result.vector == meant.vector).all() and result[1:] == meant[1:])


def write(folder: Path, first: int, count: int, began: int | None = None) -> None:
    store = store_of(folder)
    store.open()
    for begin in range(first, first + count, BATCH) if count else _endless(first):
        store.write(entries(begin, BATCH))
        if began is not None:
            os.write(began, b".")
    store.close()


def fill(store: Store) -> int:
    """Write until the store fails as it is full, and return how many entries it took."""
    written = 0
    try:
        while True:
            store.write(entries(written, 100))
            written += 100
    except StoreError as error:
        assert re.search("full|maxmemory", str(error)), error  # noqa: PT017
        return written


def _endless(first: int) -> Iterator[int]:
    while True:
        yield first
        first += BATCH


def kill(folder: Path, times: int) -> None:
    """Kill a writer again and again: one that opens the store, and one that writes."""
    numbers = random.Random(0)
    for start in range(times):
        reported, began = os.pipe()
        pid = os.fork()
        if not pid:
            write(folder, 1000 * start, 0, began)
        if start % 2:
            os.read(reported, 1)
        time.sleep(numbers.uniform(0, 0.03))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reported)
        os.close(began)
        store = store_of(folder)  # as the next start does
        store.open()
        store.read([key_of(1000 * start)])
        store.close()


if __name__ == "__main__":
    if sys.argv[2] == "kills":
        kill(Path(sys.argv[1]), int(sys.argv[3]))
    else:
        write(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
        print("process", os.getpid())

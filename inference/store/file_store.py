"""The embedded store: an SQLite database in a folder, shared by the processes of one host.

SQLite is in WAL mode: readers do not wait for the writer, a process may be killed at any time, and
its locks are the kernel's, which hold across containers. The file is not memory-mapped, so a
truncated file is an error and not a signal. docs/decisions/requests.md has the figures.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from errors import ConfigurationError, describe_error
from inference.store.base import Entry, StoreError, Usage
from inference.store.entry import FORMAT

_NAME = "vectors.sqlite3"
_TABLE = f"vectors_{FORMAT}"
# A page holds several vectors; of a page of 4 kB, a vector of 512 dimensions would waste half.
_PAGE_BYTES = 16_384
# Pages in the write-ahead log, before SQLite moves them to the database. A batch of 128 entries
# touches as many pages of the index, and each page is written as a whole.
_LOG_PAGES = 128
_LOG_BYTES = 16_000_000  # reserved for the log, out of the store's maximum bytes
MIN_BYTES = 4 * _LOG_BYTES
_CACHE_KB = 16_000  # SQLite's memory for pages, such as those of the index
_KEYS_AT_ONCE = 500
_READ_AHEAD = 64  # entries
# `execute` would run only the first step of this statement, which frees one page.
_GIVE_BACK = "PRAGMA incremental_vacuum"
_EVICTED_AT_ONCE = 256
_EVICTIONS_A_WRITE = 8
_FOLLOW_EVERY_S = 1.0  # interval at which reads check that the file is still the same
_OPEN_S = 5.0  # maximum wait for another process that creates the database
# The kernel's names of file systems whose locks or shared memory do not reach other hosts.
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "9p", "afs", "ceph", "lustre", "gpfs"}
_NETWORK |= {"glusterfs", "beegfs", "fuse.glusterfs", "fuse.sshfs", "fuse.s3fs", "fuse.ceph"}
_NETWORK |= {"fuse.gcsfuse", "fuse.rclone", "fuse.juicefs", "fuse.mount-s3", "fuse.ceph-fuse"}
_MOUNTS = Path("/proc/self/mountinfo")


def check_folder(folder: Path, mounts: Path = _MOUNTS) -> None:
    """Create the folder if it is missing, and check that it can hold the database.

    Args:
        folder: the store's folder.
        mounts: the kernel's list of mounts.

    Raises:
        ConfigurationError: the folder is not writable, or on a network file system.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(folder, describe_error(error)) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _refused(folder, "this user may not write there")
    kind = file_system(folder, mounts)
    if kind in _NETWORK:
        raise _refused(
            folder,
            f"a network file system ({kind}), whose locks do not hold; name a folder of this "
            "host, or share vectors by redis://",
        )


def _refused(folder: Path, why: str) -> ConfigurationError:
    return ConfigurationError(f"VECTOR_CACHE_URL: {folder}: {why}")


def file_system(folder: Path, mounts: Path = _MOUNTS) -> str:
    """Return the type of a folder's file system; empty if unknown.

    Source: proc(5), the fields of mountinfo.
    """
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    found, length = "", -1
    path = str(folder.resolve())
    for line in lines:
        before, _, after = line.partition(" - ")
        point = before.split()[4].replace("\\040", " ").rstrip("/")
        if (path == point or path.startswith(f"{point}/")) and len(point) >= length:
            found, length = after.split()[0], len(point)  # of two mounts, the later counts
    return found


class FileStore:
    """Stores vectors in an SQLite database; the oldest are deleted first.

    Args:
        folder: the existing folder of the database.
        max_bytes: maximum bytes of all its files, at least MIN_BYTES.
        timeout_s: maximum seconds to wait for another process that writes.
    """

    def __init__(self, folder: Path, max_bytes: int, timeout_s: float) -> None:
        self._path = folder / _NAME
        self._max_pages = (max_bytes - _LOG_BYTES) // _PAGE_BYTES
        self._timeout_s = timeout_s
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._followed_s = 0.0
        self._evictions = 0
        self._last_id = 0  # the highest id of the last read
        self._ahead_id = 0  # the highest id that was read in order, or ahead

    def open(self) -> None:
        """Open the database; create it if it is missing."""
        self.close()
        ends_s = time.monotonic() + _OPEN_S
        while True:
            try:
                with self._translated():
                    self._connect()
            except StoreError as error:
                if "locked" not in str(error) or time.monotonic() > ends_s:
                    raise
                time.sleep(0.02)
            else:
                return

    def _connect(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=_OPEN_S, isolation_level=None)
        self._connection = connection
        self._ahead_id = 0
        self._inode = self._path.stat().st_ino
        for pragma in (
            f"page_size = {_PAGE_BYTES}",
            "auto_vacuum = incremental",
            "journal_mode = wal",
            "synchronous = normal",  # a power cut may lose the last vectors only
            f"cache_size = -{_CACHE_KB}",
            f"wal_autocheckpoint = {_LOG_PAGES}",
            f"journal_size_limit = {_LOG_BYTES // 2}",
        ):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {_TABLE} "
            "(id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, value BLOB NOT NULL)"
        )
        connection.execute(f"PRAGMA max_page_count = {self._max_pages}")
        connection.execute(f"PRAGMA busy_timeout = {round(self._timeout_s * 1000)}")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn errors into StoreError; move a damaged database aside."""
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            raise StoreError(f"{self._path}: {describe_error(error)}") from error
        except sqlite3.DatabaseError as error:
            self.close()
            with suppress(OSError):
                if self._path.stat().st_ino == self._inode:  # no other process has moved it
                    self._path.replace(self._path.with_suffix(".broken"))
                    for end in ("-wal", "-shm"):
                        Path(f"{self._path}{end}").unlink(missing_ok=True)
            raise StoreError(
                f"{self._path}: {describe_error(error)}; the file was moved aside"
            ) from error

    def _follow(self) -> None:
        """Reopen the database if its file was deleted or moved aside."""
        self._followed_s = time.monotonic()
        try:
            inode = self._path.stat().st_ino
        except OSError:
            inode = 0
        if inode != self._inode:
            self.open()

    @property
    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f"{self._path}: not open")
        return self._connection

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values; None for unknown keys."""
        if time.monotonic() - self._followed_s >= _FOLLOW_EVERY_S:
            self._follow()
        found: dict[bytes, bytes] = {}
        self._last_id = 0
        with self._translated():
            for begin in range(0, len(keys), _KEYS_AT_ONCE):
                some = keys[begin : begin + _KEYS_AT_ONCE]
                marks = ",".join("?" * len(some))
                query = f"SELECT id, key, value FROM {_TABLE} WHERE key IN ({marks})"  # noqa: S608 - marks
                for number, key, value in self._open.execute(query, some):
                    found[key] = value
                    self._last_id = max(self._last_id, number)
        return [found.get(key) for key in keys]

    def read_ahead(self) -> Sequence[Entry]:
        """Return the entries that were written after those of the last read.

        Reads are in order if an import is repeated: then each is a little after the one before.
        Reads in another order get nothing, as most of the entries would be read in vain.
        """
        last, ahead = self._last_id, self._ahead_id
        if not last or ahead - 2 * _READ_AHEAD <= last <= ahead:  # nothing, or a little late
            return ()
        self._ahead_id = last
        if not ahead < last <= ahead + _READ_AHEAD:
            return ()
        with self._translated():
            rows = self._open.execute(
                f"SELECT id, key, value FROM {_TABLE} WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608 - a constant
                (last, _READ_AHEAD),
            ).fetchall()
        if rows:
            self._ahead_id = rows[-1][0]
        return [(key, value) for _, key, value in rows]

    def write(self, entries: Sequence[Entry]) -> None:
        """Write entries in one transaction; the oldest are deleted to make room."""
        self._follow()
        with self._translated():
            with self._transaction() as connection:
                evicted = self._make_room(connection, sum(len(value) for _, value in entries))
                connection.executemany(
                    f"INSERT INTO {_TABLE} (key, value) VALUES (?, ?) "  # noqa: S608 - a constant
                    "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                    entries,
                )
            self._evictions += evicted
            if _number(connection, "PRAGMA page_count") > self._max_pages:  # the maximum was higher
                connection.executescript(_GIVE_BACK)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._open
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # SQLite has rolled back already
                connection.execute("ROLLBACK")
            raise

    def _make_room(self, connection: sqlite3.Connection, nbytes: int) -> int:
        """Delete the oldest entries until `nbytes` more fit; return their number."""
        evicted = 0
        allowed = self._max_pages - 2 * (nbytes // _PAGE_BYTES) - _LOG_PAGES
        for _ in range(_EVICTIONS_A_WRITE):
            free = _number(connection, "PRAGMA freelist_count")
            used = _number(connection, "PRAGMA page_count") - free
            if used <= allowed:
                break
            evicted += connection.execute(
                f"DELETE FROM {_TABLE} WHERE id IN "  # noqa: S608 - constants
                f"(SELECT id FROM {_TABLE} ORDER BY id LIMIT {_EVICTED_AT_ONCE})"
            ).rowcount
        return evicted

    def usage(self) -> Usage:
        """Return the bytes of all files of the database, and the number of evictions."""
        nbytes = 0
        for path in self._path.parent.glob(f"{_NAME}*"):
            with suppress(OSError):
                nbytes += path.stat().st_size
        return Usage(nbytes, self._evictions)

    def count(self) -> int:
        """Return the number of entries."""
        with self._translated():
            return _number(self._open, f"SELECT count(*) FROM {_TABLE}")  # noqa: S608 - a constant

    def empty(self) -> int:
        """Delete all entries, and shrink the file."""
        with self._translated():
            deleted = self._open.execute(f"DELETE FROM {_TABLE}").rowcount  # noqa: S608 - a constant
            self._open.executescript(_GIVE_BACK)
            self._open.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return deleted

    def close(self) -> None:
        """Close the database."""
        connection, self._connection = self._connection, None
        if connection:
            with suppress(sqlite3.Error):
                connection.close()


def _number(connection: sqlite3.Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0] or 0)

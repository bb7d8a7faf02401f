"""The embedded store: within its bytes, whoever is killed, and on a disk that is full."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from errors import ConfigurationError
from inference.store import file_store
from inference.store.base import Entry, StoreError
from inference.store.file_store import MIN_BYTES, FileStore, check_folder, file_system
from tests.service import ROOT
from tests.store_writer import entries, fill, is_right, key_of, store_of

WRITER = (sys.executable, "-m", "tests.store_writer")
IN_A_NAMESPACE = ("unshare", "--pid", "--fork")


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileStore]:
    store = store_of(tmp_path)
    store.open()
    yield store
    store.close()


def test_what_was_written_is_there_after_a_restart(store: FileStore, tmp_path: Path) -> None:
    store.write(entries(0, 10))
    store.write(entries(5, 10))
    store.close()
    again = store_of(tmp_path)
    again.open()
    values = again.read([key_of(number) for number in range(16)])

    assert all(is_right(number, value or b"") for number, value in enumerate(values[:15]))
    assert values[15] is None
    assert again.count() == 15
    assert again.usage().nbytes == size_of(tmp_path)
    again.close()


def test_more_keys_than_sqlite_takes_at_once(store: FileStore) -> None:
    store.write(entries(0, 1500))

    values = store.read([key_of(number) for number in range(3000)])
    assert [value is not None for value in values] == [True] * 1500 + [False] * 1500


def test_reads_in_the_order_of_writing_get_the_entries_that_follow(store: FileStore) -> None:
    ahead = file_store._READ_AHEAD
    store.write(entries(0, 3 * ahead))

    def numbers_after(*read: int) -> list[int]:
        store.read([key_of(number) for number in read])
        following = store.read_ahead()
        begin = read[-1] + 1
        numbers = range(begin, begin + len(following))
        assert all(
            key == key_of(number) and is_right(number, value)
            for number, (key, value) in zip(numbers, following, strict=True)
        )
        return list(numbers)

    assert numbers_after(0, 2) == list(range(3, 3 + ahead))
    assert numbers_after(1) == []  # before an entry that was read
    assert numbers_after(5) == []  # read ahead already
    assert numbers_after(ahead + 4) == list(range(ahead + 5, 2 * ahead + 5))
    assert numbers_after(2 * ahead + 5) == list(range(2 * ahead + 6, 3 * ahead))  # to the end
    assert numbers_after(3 * ahead + 9) == []  # not there
    assert numbers_after(10) == []  # the import begins again, somewhere
    assert numbers_after(11) == list(range(12, 12 + ahead))


def test_reads_in_no_order_get_nothing_ahead(store: FileStore) -> None:
    far = file_store._READ_AHEAD + 1
    store.write(entries(0, 10 * far))
    following: list[Entry] = []
    for number in (9, 3, 7, 1, 5, 8, 2):
        store.read([key_of(number * far)])
        following += store.read_ahead()

    assert following == []


def test_the_oldest_go_first_and_the_folder_keeps_to_its_bytes(tmp_path: Path) -> None:
    store, reader = (FileStore(tmp_path, MIN_BYTES, 5) for _ in range(2))
    store.open()
    reader.open()
    value, largest = os.urandom(16_000), 0
    for start in range(0, 10_000, 100):
        store.write([(key_of(number), value) for number in range(start, start + 100)])
        reader.read([key_of(start)])
        largest = max(largest, size_of(tmp_path))
    values = store.read([key_of(number) for number in range(10_000)])
    first = next(number for number, value in enumerate(values) if value)

    assert largest <= MIN_BYTES
    assert size_of(tmp_path) > MIN_BYTES // 2
    assert store.usage().evictions == first > 5_000
    assert None not in values[first:]
    store.close()
    reader.close()


def test_a_folder_shrinks_to_a_bound_that_was_lowered(tmp_path: Path) -> None:
    before = FileStore(tmp_path, 3 * MIN_BYTES, 5)
    before.open()
    value = os.urandom(16_000)
    for start in range(0, 10_000, 100):
        before.write([(key_of(number), value) for number in range(start, start + 100)])
    before.close()
    assert size_of(tmp_path) > 2 * MIN_BYTES
    after = FileStore(tmp_path, MIN_BYTES, 5)
    after.open()
    for number in range(20):
        after.write([(key_of(20_000 + number), value)])
    after.close()

    assert size_of(tmp_path) <= MIN_BYTES


def test_emptying_gives_the_disk_back(store: FileStore, tmp_path: Path) -> None:
    store.write(entries(0, 5000))
    full = size_of(tmp_path)

    assert store.empty() == 5000
    assert store.count() == 0
    assert size_of(tmp_path) < full / 5


def test_no_kill_leaves_a_wrong_vector_or_a_store_that_does_not_open(tmp_path: Path) -> None:
    subprocess.run([*WRITER, str(tmp_path), "kills", "100"], cwd=ROOT, check=True, timeout=300)
    store = store_of(tmp_path)
    store.open()
    kept = 0
    for start in range(100):
        numbers = range(1000 * start, 1000 * start + 1000)
        values = store.read([key_of(number) for number in numbers])
        there = [number for number, value in zip(numbers, values, strict=True) if value]
        assert all(is_right(numbers[i], value) for i, value in enumerate(values) if value)
        assert there == list(numbers[: len(there)])  # none is missing before another
        assert len(there) % 20 == 0  # a batch is whole
        kept += len(there)

    assert store.count() == kept >= 1000  # each of the fifty that wrote got that far
    store.close()
    check = sqlite3.connect(tmp_path / "vectors.sqlite3")
    assert check.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    check.close()


def test_processes_with_the_same_number_in_two_containers_share_a_folder(tmp_path: Path) -> None:
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("making a PID namespace needs root and unshare")
    writers = [
        subprocess.Popen(
            [*IN_A_NAMESPACE, *WRITER, str(tmp_path), str(first), "1000"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in (0, 1000)
    ]
    said = [writer.communicate(timeout=120)[0] for writer in writers]
    store = store_of(tmp_path)
    store.open()
    values = store.read([key_of(number) for number in range(2000)])

    assert said == ["process 1\n", "process 1\n"]
    assert all(is_right(number, value or b"") for number, value in enumerate(values))
    assert store.count() == 2000
    store.close()


def test_many_open_a_new_folder_at_the_same_moment(tmp_path: Path) -> None:
    failures = []

    def write(first: int) -> None:
        try:
            store = store_of(tmp_path)
            store.open()
            store.write(entries(first, 20))
            store.close()
        except StoreError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=write, args=(20 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # a test that failed has it open


def test_a_full_disk_keeps_what_was_written(small_disk: Path) -> None:
    store = store_of(small_disk)
    store.open()
    written = fill(store)
    with pytest.raises(StoreError, match="full"):
        store.write(entries(written, 100))
    values = store.read([key_of(number) for number in range(written)])

    assert written > 1000
    assert all(is_right(number, value or b"") for number, value in enumerate(values))
    store.close()
    store.open()  # a restart
    assert is_right(0, store.read([key_of(0)])[0] or b"")
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    store.write(entries(written, 100))
    assert is_right(written, store.read([key_of(written)])[0] or b"")
    store.close()


def test_on_a_disk_that_is_full_from_the_start_nothing_but_the_store_fails(
    small_disk: Path,
) -> None:
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(8_000_000))
    store = store_of(small_disk)
    with pytest.raises(StoreError, match=r"full|I/O|open"):
        store.open()
    with pytest.raises(StoreError):
        store.write(entries(0, 100))
    filler.unlink()
    store.open()
    store.write(entries(0, 100))

    assert store.count() == 100
    store.close()


@pytest.mark.parametrize("damage", [b"\xff" * 100_000, b"no database"])
def test_a_damaged_database_is_set_aside_and_a_new_one_begun(
    store: FileStore, tmp_path: Path, damage: bytes
) -> None:
    store.write(entries(0, 1000))
    store.close()
    file = tmp_path / "vectors.sqlite3"
    with file.open("r+b") as content:
        content.seek(0 if len(damage) < 100 else 20_000)
        content.write(damage)

    def use() -> None:
        store.open()
        store.read([key_of(number) for number in range(1000)])

    with pytest.raises(StoreError, match="moved aside"):
        use()
    store.open()
    store.write(entries(0, 10))

    assert store.count() == 10
    assert (tmp_path / "vectors.broken").is_file()


def test_one_that_still_has_the_damaged_file_leaves_the_new_one_alone(
    store: FileStore, tmp_path: Path
) -> None:
    file = tmp_path / "vectors.sqlite3"
    file.replace(tmp_path / "moved")
    fresh = store_of(tmp_path)
    fresh.open()
    fresh.write(entries(0, 10))
    with pytest.raises(StoreError), store._translated():
        raise sqlite3.DatabaseError("database disk image is malformed")

    assert fresh.count() == 10
    assert file.is_file()
    fresh.close()


def test_a_folder_that_is_deleted_under_a_service_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_store, "_FOLLOW_EVERY_S", 0)
    folder = tmp_path / "cache"
    store = store_of(folder)
    store.open()
    store.write(entries(0, 10))
    shutil.rmtree(folder)

    assert store.read([key_of(0)]) == [None]
    store.write(entries(0, 10))
    assert is_right(0, store.read([key_of(0)])[0] or b"")
    assert (folder / "vectors.sqlite3").is_file()
    store.close()


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"VECTOR_CACHE_URL: .*/file: "):
        check_folder(tmp_path / "file")
    check_folder(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p"])
def test_a_network_file_system_is_refused(tmp_path: Path, kind: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        f"22 21 0:50 / {tmp_path} rw,relatime shared:2 master:3 - {kind} server:/share rw\n"
    )
    with pytest.raises(ConfigurationError, match=rf"a network file system \({kind}\)"):
        check_folder(tmp_path / "folder", mounts)

    assert file_system(tmp_path.parent, mounts) == "ext4"
    assert file_system(tmp_path, tmp_path / "none") == ""


def test_the_kind_of_a_real_file_system_is_reported(small_disk: Path) -> None:
    assert file_system(small_disk) == "tmpfs"
    assert file_system(Path("/proc")) == "proc"
    assert file_store._NETWORK.isdisjoint({"tmpfs", "ext4", "xfs", "btrfs", "overlay", "zfs"})

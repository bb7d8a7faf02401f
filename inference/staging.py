"""A model folder changes from one whole state to another, whatever breaks on the way.

    root/.download-xyz/      written to, checked; no start takes it for a model
    root/<parts>, record     moved there at the end, the part that a start looks for last

It knows no families and no hub. The record, `download.json`, says what a run left in the folder.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from inference.errors import DownloadError

logger = logging.getLogger(__name__)

RECORD = "download.json"
_PREFIX = ".download-"
_PLACES_IN_CODE = ("Exception from ", "Check '")  # how OpenVINO's errors begin
_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}


@contextmanager
def staging(root: Path, *, wait: bool = False) -> Iterator[Path]:
    """Give a folder inside `root` to write into; what is still in it at the end is deleted.

    Args:
        root: the folder that is to change.
        wait: until another run that is writing has ended.

    Raises:
        DownloadError: another run is writing into `root`, or nobody can.
    """
    created = False
    try:
        created = not root.exists()
        root.mkdir(parents=True, exist_ok=True)
        with _alone_in(root, wait=wait), _folder_in(root) as folder:
            yield folder
    except OSError as error:
        raise DownloadError(f"{root.absolute()} cannot be written: {why(error)}") from error
    finally:
        if created:
            with suppress(OSError):  # it holds the model
                root.rmdir()


@contextmanager
def _folder_in(root: Path) -> Iterator[Path]:
    for leftover in root.glob(f"{_PREFIX}*"):  # of a run that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(mkdtemp(prefix=_PREFIX, dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _alone_in(root: Path, *, wait: bool) -> Iterator[None]:
    descriptor = os.open(root, os.O_RDONLY)  # the kernel lets the lock go when the process ends
    try:
        _lock(descriptor, root, wait=wait)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, root: Path, *, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        if not wait:
            raise DownloadError(f"another download is writing into {root.absolute()}") from error
        logger.info("Waiting for another process that is writing into %s", root.absolute())
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:  # some network file systems know no locks
        logger.debug("No lock on %s: %s", root, error)


def install(folder: Path, root: Path, parts: Sequence[str]) -> None:
    """Move the parts, for all to read, from a staging folder into `root`, over those there.

    Args:
        folder: the staging folder.
        root: the model folder.
        parts: names in `folder`; the last is the one without which a start sees no model.
    """
    for path in folder.rglob("*"):
        # The hub's library makes files for their owner only, but a container may run as any user.
        path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o644))
    replaced = folder / "replaced"
    replaced.mkdir()
    for name in reversed(parts):
        set_aside(root / name, replaced / name)
    os.sync()  # after a power cut, no name without its content
    for name in parts:
        (folder / name).rename(root / name)


def set_aside(path: Path, aside: Path) -> None:
    """Move a file or folder to where it will be deleted, or delete it where it cannot be moved."""
    if not path.exists():
        return
    try:
        path.rename(aside)
    except OSError:  # a folder from a lower layer of an image can be deleted, but not renamed
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def write_record(folder: Path, request: Mapping[str, str], commits: Mapping[str, str]) -> None:
    """Write down what was asked for, which commits came, and the size of every file."""
    record = {"request": dict(request), "commits": dict(commits), "bytes": _sizes(folder)}
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def is_whole(root: Path, request: Mapping[str, str]) -> bool:
    """Tell whether a run for the same request left all of its files in `root`."""
    try:
        record = json.loads((root / RECORD).read_text(encoding="utf-8"))
        return record["request"] == dict(request) and all(
            (root / name).stat().st_size == size for name, size in record["bytes"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def _sizes(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def why(error: BaseException) -> str:
    """Say in a few words why a file could not be written, whichever library tried."""
    if fault := disk_fault(error):
        return fault
    reason = error.strerror if isinstance(error, OSError) else None
    lines = (line.strip() for line in str(error).splitlines())
    telling = (line for line in lines if line and not line.startswith(_PLACES_IN_CODE))
    return reason or next(telling, type(error).__name__)


def disk_fault(error: BaseException) -> str | None:
    """Say that the disk is full, where that is the reason of an error."""
    for link in chain(error):
        if isinstance(link, OSError) and link.errno in _FULL:
            return _FULL[link.errno]
        if "No space left on device" in str(link):  # libraries in Rust have only this text
            return _FULL[errno.ENOSPC]
    return None


def chain(error: BaseException) -> Iterator[BaseException]:
    """Give an error, and those that led to it."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__

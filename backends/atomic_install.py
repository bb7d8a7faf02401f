"""Replaces the content of a model folder, so that a crash leaves no mix of old and new files.

    root/.download-xyz/      files are written and checked here; it is never loaded as a model
    root/<parts>             files move here at the end; the part that marks a model moves last

This module depends on no model family and on no hub.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from errors import DownloadError, describe_error

logger = logging.getLogger(__name__)

_PREFIX = ".download-"


@contextmanager
def staging(root: Path, *, wait: bool = False) -> Iterator[Path]:
    """Make a temporary folder inside `root`, and delete it at the end.

    Args:
        root: the model folder.
        wait: whether to wait for another process that writes into `root`.

    Raises:
        DownloadError: another process writes into `root`, or `root` cannot be written.
    """
    created = False
    try:
        created = not root.exists()
        root.mkdir(parents=True, exist_ok=True)
        with _alone_in(root, wait=wait), _folder_in(root) as folder:
            yield folder
    except OSError as error:
        raise DownloadError(
            f"{root.absolute()} cannot be written: {describe_error(error)}"
        ) from error
    finally:
        if created:
            with suppress(OSError):  # the folder is not empty: it holds the model
                root.rmdir()


@contextmanager
def _folder_in(root: Path) -> Iterator[Path]:
    for leftover in root.glob(f"{_PREFIX}*"):  # left by a killed process
        shutil.rmtree(leftover, ignore_errors=True)
    folder = Path(mkdtemp(prefix=_PREFIX, dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _alone_in(root: Path, *, wait: bool) -> Iterator[None]:
    descriptor = os.open(root, os.O_RDONLY)  # the kernel releases the lock when the process ends
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
    except OSError as error:  # some network file systems have no locks
        logger.debug("No lock on %s: %s", root, error)


def install(folder: Path, root: Path, parts: Sequence[str]) -> None:
    """Move parts from a staging folder into `root`, where they replace the old parts.

    Afterwards all users can read the parts.

    Args:
        folder: the staging folder.
        root: the model folder.
        parts: names in `folder`, in the order in which they are moved. The last name is the part
            by which the service detects a model.
    """
    for path in folder.rglob("*"):
        # The hub's library lets only the owner read files, but a container may run as any user.
        path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o644))
    replaced = folder / "replaced"
    replaced.mkdir()
    for name in reversed(parts):
        replace_aside(root / name, replaced / name)
    os.sync()  # content before names, in case of a power cut
    for name in parts:
        (folder / name).rename(root / name)


def replace_aside(path: Path, aside: Path) -> None:
    """Move a file or folder to a place that is deleted later; if it cannot be moved, delete it."""
    if not path.exists():
        return
    try:
        path.rename(aside)
    except OSError:  # a folder from a lower layer of an image can be deleted, but not renamed
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

"""Detects whether a model's files have changed: by size and time first, then by content.

Reading half a gigabyte takes a third of a second. So files are first compared by name, size and
times. Their content is digested only if one of these differs.

In a cache that several models share, size and modification time prove nothing: two models of one
architecture have equal sizes, and some tools give all files one time. There the inode and the time
of its last change must be equal, too. A container image changes both, but its conversions lie in
the model's own folder.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeAlias

from backends.folder import LAYOUTS, PROCESSOR_FILES, ModelFolder

# File name -> [size in bytes, modification time in s, inode, time of its last change in ns].
Stamps: TypeAlias = dict[str, list[int]]
_IN_OWN_FOLDER = 2  # the first values

# The libraries that the conversion uses.
_LIBRARIES = (
    *("openvino", "torch", "transformers", "tokenizers", "sentence-transformers"),
    *("open_clip_torch", "sentencepiece", "ftfy"),
)


@cache
def digest_code() -> str:
    """Return a digest of the code that converts: `backends/` and the versions of the libraries."""
    digest = hashlib.sha256("".join(map(_version, _LIBRARIES)).encode())
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _version(library: str) -> str:
    try:
        return f"{library} {version(library)}\n"
    except PackageNotFoundError:
        return f"{library} -\n"


def stamps(folder: ModelFolder) -> Stamps:
    """Return size, times and inode of every file of a model."""
    found = {}
    for name, path in _files(folder):
        stat = path.stat()
        found[name] = [stat.st_size, int(stat.st_mtime), stat.st_ino, stat.st_ctime_ns]
    return found


def same_files(recorded: Stamps, now: Stamps, *, is_own: bool) -> bool:
    """Return whether a model's files are unchanged since its conversion.

    Args:
        recorded: the stamps that were recorded when the model was converted.
        now: the stamps of the model's files.
        is_own: whether the conversion lies in the model's folder.
    """
    count = _IN_OWN_FOLDER if is_own else None
    return recorded.keys() == now.keys() and all(
        recorded[name][:count] == stamp[:count] for name, stamp in now.items()
    )


def digest_content(folder: ModelFolder) -> str:
    """Return a digest of the names and content of a model's files."""
    digest = hashlib.sha256()
    for name, path in _files(folder):
        digest.update(f"{name} {path.stat().st_size}\n".encode())
        if os.access(path, os.R_OK):  # no library reads an unreadable file either
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _files(folder: ModelFolder) -> Iterator[tuple[str, Path]]:
    """Yield the name and path of each file of a model; files outside of its folder come last."""
    for path in _files_inside(folder):
        yield str(path.relative_to(folder.root)), path
    processors = folder.processors if folder.family == "qwen3_vl" else None
    if processors and not processors.is_relative_to(folder.root):
        found = ((name, processors / name) for name in PROCESSOR_FILES)
        yield from ((f"processors/{name}", path) for name, path in found if path.is_file())


def _files_inside(folder: ModelFolder) -> Iterator[Path]:
    for name in (*LAYOUTS[folder.family].parts, "trust_remote_code", "demo.json"):
        part = folder.part(name)
        if part.is_file():
            yield part
        for path, _, files in sorted(os.walk(part, followlinks=True)):
            yield from (Path(path, file) for file in sorted(files))

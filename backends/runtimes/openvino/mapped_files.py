"""Files that are mapped into this process's memory: give their pages back to the kernel."""

from __future__ import annotations

import ctypes
from pathlib import Path

_MADV_DONTNEED = 4  # from Linux' mman.h; for a mapped file: read it again when it is looked at
_MAPS = Path("/proc/self/maps")


def drop_mapped_pages(file: Path) -> None:
    """Drop the pages of a file from this process's memory; whoever looks reads them again.

    Elsewhere than on Linux this does nothing.
    """
    if not _MAPS.is_file():
        return
    libc = ctypes.CDLL(None)
    for start, end in _mappings(str(file.resolve())):
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


def _mappings(path: str) -> list[tuple[int, int]]:
    # A line: start-end permissions offset device inode path
    lines = (line.split(maxsplit=5) for line in _MAPS.read_text(errors="replace").splitlines())
    names = (path, f"{path} (deleted)")  # as another version's start may do meanwhile
    found = [words[0].split("-") for words in lines if len(words) == 6 and words[5] in names]
    return [(int(start, 16), int(end, 16)) for start, end in found]

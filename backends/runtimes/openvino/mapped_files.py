"""Returns memory of memory-mapped files to the kernel."""

from __future__ import annotations

import ctypes
from pathlib import Path

_MADV_DONTNEED = 4  # from Linux' mman.h: pages are read again at the next access
_MAPS = Path("/proc/self/maps")


def drop_mapped_pages(file: Path) -> None:
    """Drop the pages of a mapped file from memory; the next access reads them again.

    On other systems than Linux this does nothing.
    """
    if not _MAPS.is_file():
        return
    libc = ctypes.CDLL(None)
    for start, end in _mappings(str(file.resolve())):
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


def _mappings(path: str) -> list[tuple[int, int]]:
    # A line: start-end permissions offset device inode path
    lines = (line.split(maxsplit=5) for line in _MAPS.read_text(errors="replace").splitlines())
    names = (path, f"{path} (deleted)")  # another process may have deleted it
    found = [words[0].split("-") for words in lines if len(words) == 6 and words[5] in names]
    return [(int(start, 16), int(end, 16)) for start, end in found]

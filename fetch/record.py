"""The record of a download, `download.json`: the request, the commits, and all files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from backends.folder import RECORD

_NOTHING = ("", None, "False", "false")


def write_record(folder: Path, request: Mapping[str, str], commits: Mapping[str, str]) -> None:
    """Write `download.json`: the request, the downloaded commits, and the size of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in files}
    record = {"request": dict(request), "commits": dict(commits), "bytes": sizes}
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def is_whole(root: Path, request: Mapping[str, str]) -> bool:
    """Return whether `root` holds all files of an earlier download for the same request.

    Other versions may write requests with other keys, so keys with empty values are ignored.
    """
    try:
        record = json.loads((root / RECORD).read_text(encoding="utf-8"))
        return _are_equal(record["request"], request) and all(
            (root / name).stat().st_size == size for name, size in record["bytes"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def _are_equal(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    differing = {key for key, _ in one.items() ^ other.items()}
    return not differing & one.keys() & other.keys() and all(
        (one.get(key) or other.get(key)) in _NOTHING for key in differing
    )

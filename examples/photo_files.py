"""Finds the image files of a folder, and identifies them by content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from uuid import NAMESPACE_OID, UUID, uuid5

from examples.errors import PhotosError

SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".heif", ".jp2", ".jpeg", ".jpg", ".png", ".tif", ".tiff"}
    | {".webp"}
)


class Photo(NamedTuple):
    """An image file, and the id of its object in Weaviate: equal content has equal ids."""

    path: Path
    id: UUID


def find_files(folder: Path) -> list[Path]:
    """Return the image files of a folder and its subfolders, without hidden ones.

    Raises:
        PhotosError: the folder is missing, or holds no images.
    """
    if not folder.is_dir():
        raise PhotosError(f"{folder} is no folder.")
    inside = ((path, path.relative_to(folder).parts) for path in sorted(folder.rglob("*")))
    visible = (path for path, parts in inside if not any(part.startswith(".") for part in parts))
    files = [path for path in visible if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not files:
        raise PhotosError(f"{folder} has no images: no file ends in {', '.join(sorted(SUFFIXES))}.")
    return files


def identify(files: Iterable[Path]) -> tuple[list[Photo], dict[Path, str]]:
    """Read files; return a photo for each distinct content, and unreadable files with reasons."""
    images: dict[UUID, Photo] = {}
    unreadable: dict[Path, str] = {}
    for path in files:
        try:
            content = path.read_bytes()
        except OSError as error:
            unreadable[path] = f"cannot be read: {error.strerror}"
            continue
        if not content:
            unreadable[path] = "the file is empty"
            continue
        image = Photo(path, uuid5(NAMESPACE_OID, hashlib.sha256(content).hexdigest()))
        images.setdefault(image.id, image)
    return list(images.values()), unreadable

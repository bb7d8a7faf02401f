"""The images of a folder, each known by its content."""

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
    """A file, and the id of its object in Weaviate: equal contents have equal ids."""

    path: Path
    id: UUID


def find_files(folder: Path) -> list[Path]:
    """Return the image files of a folder and of those in it, hidden ones left out.

    Raises:
        PhotosError: there is no such folder, or no image in it.
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
    """Read the files: return an image for each content, and why the others cannot be read."""
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

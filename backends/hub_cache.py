"""The hub cache: the folder in which huggingface_hub keeps downloaded models.

Source of the layout: huggingface_hub, `models--ORG--NAME/{refs,snapshots,blobs}`.
"""

from __future__ import annotations

from pathlib import Path


def repository_folder(cache_dir: Path, hub_name: str) -> Path:
    """Return the folder of a model in a hub cache, whether it is there or not."""
    return cache_dir / f"models--{hub_name.replace('/', '--')}"


def hub_snapshot(cache_dir: Path, hub_name: str) -> Path | None:
    """Return the snapshot folder of a model in a hub cache; None if it is missing."""
    repository = repository_folder(cache_dir, hub_name)
    revision = read_marker(repository / "refs" / "main")
    if revision and (repository / "snapshots" / revision).is_dir():
        return repository / "snapshots" / revision
    return next(iter(sorted((repository / "snapshots").glob("*/"))), None)


def beside_or_cached(folder: Path, hub_name: str) -> Path | None:
    """Return the folder of another model: a subfolder with its name, or its hub snapshot.

    Returns:
        None if it is in neither.
    """
    beside = folder / Path(hub_name).name
    return beside if beside.is_dir() else hub_snapshot(folder, hub_name)


def hub_snapshots(cache_dir: Path) -> list[Path]:
    """Return the snapshot folder of every model in a hub cache."""
    names = (path.name.removeprefix("models--") for path in sorted(cache_dir.glob("models--*")))
    found = (hub_snapshot(cache_dir, name.replace("--", "/")) for name in names)
    return [path for path in found if path]


def default_hub_cache() -> Path:
    """Return huggingface_hub's default cache folder, which HF_HUB_CACHE or HF_HOME may set."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def read_marker(path: Path) -> str | None:
    """Return the stripped text of a small file; None if there is no such file."""
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None

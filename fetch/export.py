"""What a model is served from where torch is not: its conversion without the original."""

from __future__ import annotations

import shutil
from pathlib import Path

from backends.folder import CONVERSIONS, RECORD, ModelFolder
from backends.model import ModelOptions
from backends.text_folder import is_served_as_it_is
from errors import ConversionError, DownloadError, describe_error


def export(folder: ModelFolder, options: ModelOptions, target: Path) -> None:
    """Copy it, as it is served, into a model folder of its own, for all to read.

    Args:
        folder: the model, which is converted where it was not.
        options: what it will be served by.
        target: the folder, which is made.

    Raises:
        DownloadError: the model can only be served by torch, or the copy not be written.
    """
    try:
        if is_served_as_it_is(folder):
            shutil.copytree(folder.root, target, symlinks=True)
        else:
            _copy_conversion(folder, options, target)
    except OSError as error:
        raise DownloadError(
            f"{target.absolute()} cannot be written: {describe_error(error)}"
        ) from error


def _copy_conversion(folder: ModelFolder, options: ModelOptions, target: Path) -> None:
    from backends.conversion.conversion_cache import converted

    try:
        path = converted(folder, options, written=True)
    except ConversionError as error:
        raise DownloadError(
            f"this model needs torch, as it cannot be converted ({error}): build it with "
            "--target cuda, or on the custom image"
        ) from error
    target.mkdir(parents=True)
    times = shutil.ignore_patterns("source.json")  # of the original's files, which stay behind
    shutil.copytree(path, target / CONVERSIONS / path.name, ignore=times)
    if (folder.root / RECORD).is_file():
        shutil.copy2(folder.root / RECORD, target)

"""Exports a converted model without its original, for images without torch."""

from __future__ import annotations

import shutil
from pathlib import Path

from backends.folder import CONVERSIONS, RECORD, ModelFolder
from backends.model import ModelOptions
from backends.text_folder import is_served_as_it_is
from errors import ConversionError, DownloadError, describe_error


def export(folder: ModelFolder, options: ModelOptions, target: Path) -> None:
    """Copy the files that serve a model without torch to a new folder, which all users can read.

    Args:
        folder: the model folder; the model is converted if needed.
        options: the options with which the model will be served.
        target: the folder to create.

    Raises:
        DownloadError: the model needs torch, or the copy cannot be written.
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
    times = shutil.ignore_patterns("source.json")  # describes the original's files
    shutil.copytree(path, target / CONVERSIONS / path.name, ignore=times)
    if (folder.root / RECORD).is_file():
        shutil.copy2(folder.root / RECORD, target)

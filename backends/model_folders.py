"""Finds the models of MODELS_DIR: it is the folder of one model, or holds a folder for each model.

    models/openai_clip, models/openai_clip_processor        one model, without a name
    models/photos/openai_clip, ...; models/texts/model      two models: photos and texts

`clip`, `text` and `model` are parts of layouts, and likely names of models as well. A subfolder is
a model if it holds a whole layout itself, whatever its name; then it is no part of a layout.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from backends.folder import CONVERSIONS, DESCRIPTION, LAYOUTS, Family, lone_conversions
from errors import ModelFolderError

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_NO_MODELS = {CONVERSIONS, "lost+found"}


def find_models(root: Path) -> dict[str, Path]:
    """Return the folders of the models in a folder, by name; empty if it holds no such folders.

    Raises:
        ModelFolderError: a model's name is invalid, or the folder is a model itself as well.
    """
    try:
        entries = sorted(root.iterdir())
    except OSError:
        return {}  # the code that loads the model reports why
    found = {path.name: path for path in entries if _may_be_model(path) and _layout(path)}
    if not found:
        return {}
    family = _layout(root)
    # A model that moved into a folder of its own may have left its conversions behind.
    if family and (family != "converted" or (root / DESCRIPTION).is_file()):
        raise ModelFolderError(
            f"{root.absolute()} is the folder of a model ({family}), and holds models as well: "
            f"{', '.join(found)}. Move the parts of the first into a folder of their own"
        )
    for name in found:
        if not _NAME.fullmatch(name):
            raise ModelFolderError(
                f"{root.absolute()} holds a model in a folder with an invalid name: "
                f"{name!r}. Rename it: up to 64 letters, digits, dots, dashes and underscores, the "
                "first a letter or a digit"
            )
    for path in entries:
        if path.name not in found:
            logger.info("Skipped in %s, as it is no model: %r", root.absolute(), path.name)
    return found


def _may_be_model(path: Path) -> bool:
    is_hidden = path.name.startswith(".") or path.name in _NO_MODELS
    return not is_hidden and path.is_dir() and os.access(path, os.R_OK | os.X_OK)


def _layout(root: Path) -> Family | None:
    """Return the family whose whole layout a folder holds; None if it holds none."""
    for family, layout in LAYOUTS.items():
        parts = [root / name for name in layout.parts]
        is_whole = parts[0].is_dir() and all(part.exists() for part in parts)
        if is_whole and not any(_layout(part) for part in parts):
            return family
    return "converted" if lone_conversions(root) else None

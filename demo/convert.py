"""Converts the demo model for this repository: with the conversion `make run` needs no torch."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from backends.conversion.conversion_cache import converted
from backends.folder import CONVERSIONS, DESCRIPTION, detect
from backends.model import ModelOptions
from demo.layout import MODELS

SHIPPED = MODELS / CONVERSIONS / "demo"


def convert(target: Path) -> None:
    """Convert the demo model, and replace a folder by the result.

    Raises:
        ConversionError: it could not be converted.
    """
    with TemporaryDirectory() as scratch:
        # A copy: beside the original the conversion cache would find the shipped conversion.
        root = Path(scratch, MODELS.name)
        without = shutil.ignore_patterns(CONVERSIONS)
        shutil.copytree(MODELS, root, symlinks=True, ignore=without)
        made = converted(detect(root), ModelOptions(runtime="openvino"))
        _forget_the_machine(made, root)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(made, target)


def _forget_the_machine(made: Path, root: Path) -> None:
    """Remove paths and times of this machine from the conversion."""
    (made / "source.json").unlink()
    description = made / DESCRIPTION
    text = description.read_text("utf-8")
    description.write_text(text.replace(str(root.absolute()), "demo/models"), "utf-8")


if __name__ == "__main__":
    convert(SHIPPED)

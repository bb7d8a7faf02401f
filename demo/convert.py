"""The demo model's conversion, which this repository ships: with it `make run` needs no torch."""

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
    """Convert the demo model anew, and put the result in place of a folder.

    Raises:
        ConversionError: it could not be converted.
    """
    with TemporaryDirectory() as scratch:
        # A copy, as beside the original the store would find what is shipped.
        root = Path(scratch, MODELS.name)
        without = shutil.ignore_patterns(CONVERSIONS)
        shutil.copytree(MODELS, root, symlinks=True, ignore=without)
        made = converted(detect(root), ModelOptions(runtime="openvino"))
        _forget_the_machine(made, root)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(made, target)


def _forget_the_machine(made: Path, root: Path) -> None:
    """Leave out where the model lay, and when its files were written there."""
    (made / "source.json").unlink()
    description = made / DESCRIPTION
    text = description.read_text("utf-8")
    description.write_text(text.replace(str(root.absolute()), "demo/models"), "utf-8")


if __name__ == "__main__":
    convert(SHIPPED)

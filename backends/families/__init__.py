"""The model families: each module loads one family's folder as torch modules.

Each module uses the family's own libraries, and has a function `load`:
(ModelFolder, ModelOptions) -> TorchModel. The table of families is `LAYOUTS` in
`backends/folder.py`; it names the files by which a family is detected.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, cast

from backends.folder import LAYOUTS, ModelFolder, loaded
from backends.model import ModelOptions

if TYPE_CHECKING:
    from backends.runtimes.torch.towers import TorchModel


def load_towers(folder: ModelFolder, options: ModelOptions) -> TorchModel:
    """Load the model of a folder as torch modules, with the module of its family.

    Raises:
        ModelFolderError: the folder's content cannot be loaded.
    """
    from backends.families.checkpoints import load_sound

    load = import_loader(LAYOUTS[folder.family].module)
    return loaded(folder, folder.family, lambda: load_sound(lambda: load(folder, options)))


def import_loader(module: str | None) -> Callable[[ModelFolder, ModelOptions], TorchModel]:
    """Import a family's module of this package, and return its function `load`."""
    return cast(
        "Callable[[ModelFolder, ModelOptions], TorchModel]",
        import_module(f"{__name__}.{module}").load,
    )

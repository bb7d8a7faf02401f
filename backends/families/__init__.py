"""The model families, one module each: by its own libraries it makes torch modules of a folder.

Each has a function `load`: (ModelFolder, ModelOptions) -> TorchModel. The table of them, which
also says by what a folder is known, is `LAYOUTS` of `backends/folder.py`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from backends.folder import LAYOUTS, ModelFolder
from backends.model import ModelOptions
from errors import ModelFolderError, StartupError, describe_error

if TYPE_CHECKING:
    from backends.torch.towers import TorchModel


def load_towers(folder: ModelFolder, options: ModelOptions) -> TorchModel:
    """Load the model of a folder as torch modules.

    Raises:
        ModelFolderError: the folder's content cannot be loaded.
    """
    load = import_module(f"{__name__}.{LAYOUTS[folder.family].module}").load
    try:
        return cast("TorchModel", load(folder, options))
    except StartupError:
        raise
    except Exception as error:
        what = f"The {folder.family} model in {folder.root.absolute()}"
        raise ModelFolderError(f"{what} cannot be loaded: {describe_error(error)}") from error

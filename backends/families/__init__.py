"""The model families: a table of where each is implemented, imported only when it is chosen.

One module a family: by its own libraries it makes torch modules, and describes its inputs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from backends.folder import Family, ModelFolder
from backends.model import ModelOptions
from errors import ModelFolderError, StartupError, describe_error

if TYPE_CHECKING:
    from backends.torch.towers import TorchModel

# Each names a function (ModelFolder, ModelOptions) -> TorchModel.
LOADERS: dict[Family, str] = {
    "openai": "backends.families.hf_clip:load",
    "openclip": "backends.families.openclip:load",
    "siglip": "backends.families.siglip:load",
    "modernvbert": "backends.families.modernvbert:load",
    "sentence_transformers": "backends.families.sentence_transformer:load",
    "text": "backends.families.text:load",
}


def load_towers(folder: ModelFolder, options: ModelOptions) -> TorchModel:
    """Load the model of a folder as torch modules.

    Raises:
        ModelFolderError: the folder's content cannot be loaded.
    """
    module_name, function_name = LOADERS[folder.family].split(":")
    load = getattr(import_module(module_name), function_name)
    try:
        return cast("TorchModel", load(folder, options))
    except StartupError:
        raise
    except Exception as error:
        what = f"The {folder.family} model in {folder.root.absolute()}"
        raise ModelFolderError(f"{what} cannot be loaded: {describe_error(error)}") from error

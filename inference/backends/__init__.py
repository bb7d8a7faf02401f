"""The model families: a table of where each is implemented, imported only when it is chosen."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from inference.backends.base import BackendOptions, EmbeddingBackend
from inference.errors import ModelFolderError, StartupError
from inference.model_folder import Family, ModelFolder

# Each names a function (ModelFolder, BackendOptions) -> EmbeddingBackend.
LOADERS: dict[Family, str] = {
    "openai": "inference.backends.hf_clip:load",
    "openclip": "inference.backends.openclip:load",
    "siglip": "inference.backends.siglip:load",
    "sentence_transformers": "inference.backends.sentence_transformer:load",
}


def load_backend(folder: ModelFolder, options: BackendOptions) -> EmbeddingBackend:
    """Load the model of a folder onto a device.

    Raises:
        ModelFolderError: the folder's content cannot be loaded.
        DeviceUnavailableError: the device is not there.
    """
    if folder.family not in LOADERS:
        raise ModelFolderError(
            f"{folder.root.absolute()} holds a ModernVBERT model ({folder.hub_name}), "
            "which this version cannot serve yet; the other families it can"
        )
    module_name, function_name = LOADERS[folder.family].split(":")
    load = getattr(import_module(module_name), function_name)
    try:
        return cast(EmbeddingBackend, load(folder, options))
    except StartupError:
        raise
    except Exception as error:
        raise ModelFolderError(_cannot_load(folder, error)) from error


def _cannot_load(folder: ModelFolder, error: Exception) -> str:
    reason = str(error).strip().split("\n")[0]
    return (
        f"The {folder.family} model in {folder.root.absolute()} cannot be loaded: "
        f"{reason or type(error).__name__}"
    )

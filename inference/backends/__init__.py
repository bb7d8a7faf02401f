"""The model families: a table of where each is implemented, imported only when it is chosen."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, cast

from inference.backends.base import BackendOptions, EmbeddingBackend
from inference.backends.precision import log_choice, usable
from inference.errors import ConversionError, ModelFolderError, StartupError
from inference.model_folder import Family, ModelFolder
from inference.staging import why

if TYPE_CHECKING:
    from inference.backends.torch_runtime import Towers

logger = logging.getLogger(__name__)

# A mere import of openvino reports to its makers over the network, unasked; where this package of
# theirs is not to be had, it does not.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

# Each names a function (ModelFolder, BackendOptions) -> Towers.
LOADERS: dict[Family, str] = {
    "openai": "inference.backends.hf_clip:load",
    "openclip": "inference.backends.openclip:load",
    "siglip": "inference.backends.siglip:load",
    "sentence_transformers": "inference.backends.sentence_transformer:load",
}


def load_replicas(
    folder: ModelFolder, options: BackendOptions, devices: str = "cpu"
) -> list[EmbeddingBackend]:
    """Load the model of a folder once for each device.

    Args:
        folder: the model folder.
        options: how it is to be loaded.
        devices: `cpu`, one or several GPUs with commas between them, or `all`: every GPU.

    Raises:
        ModelFolderError: the folder's content cannot be loaded.
        DeviceUnavailableError: a device is not there, or cannot run this build of torch.
    """
    if devices == "cpu":
        return [load_backend(folder, options)]
    from inference.backends.torch_devices import gpus

    return [load_backend(folder, replace(options, device=device)) for device in gpus(devices)]


def load_backend(folder: ModelFolder, options: BackendOptions) -> EmbeddingBackend:
    """Load the model of a folder onto a device, for the runtime that is wanted if it can be.

    Raises:
        ModelFolderError: the folder's content cannot be loaded.
        DeviceUnavailableError: the device is not there.
    """
    _check_family(folder)
    if options.runtime == "openvino" and options.device == "cpu":
        try:
            from inference.backends import openvino_runtime

            return openvino_runtime.load(folder, options)
        except (ConversionError, ImportError) as error:
            logger.warning("Not served by OpenVINO but by torch, which is slower: %s", error)
    return _load_by_torch(folder, options)


def _load_by_torch(folder: ModelFolder, options: BackendOptions) -> EmbeddingBackend:
    from inference.backends import torch_devices, torch_runtime

    torch_devices.check(options.device)
    supported = torch_devices.precisions(options.device)
    log_choice(torch_devices.describe(options.device), options.precision, supported)
    usable_options = replace(options, precision=usable(options.precision, supported))
    return torch_runtime.backend_of(load_towers(folder, usable_options))


def load_towers(folder: ModelFolder, options: BackendOptions) -> Towers:
    """Load the model of a folder as torch modules.

    Raises:
        ModelFolderError: the folder's content cannot be loaded.
    """
    _check_family(folder)
    module_name, function_name = LOADERS[folder.family].split(":")
    load = getattr(import_module(module_name), function_name)
    try:
        return cast("Towers", load(folder, options))
    except StartupError:
        raise
    except Exception as error:
        raise ModelFolderError(_cannot_load(folder, error)) from error


def _check_family(folder: ModelFolder) -> None:
    if folder.family not in LOADERS:
        raise ModelFolderError(
            f"{folder.root.absolute()} holds a ModernVBERT model ({folder.hub_name}), "
            "which this version cannot serve yet; the other families it can"
        )


def _cannot_load(folder: ModelFolder, error: Exception) -> str:
    return f"The {folder.family} model in {folder.root.absolute()} cannot be loaded: {why(error)}"

"""Chooses the runtime of a model folder, and loads its model once for each device.

A runtime is imported only when it is chosen.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import get_args

from backends.conversion.entries import known_content
from backends.families import load_towers
from backends.folder import ModelFolder
from backends.identity import PREPROCESSING_VERSIONS, Identity, with_space
from backends.model import Model, ModelOptions, TextMode
from backends.precision import lacking, log_choice, log_refusal, usable
from backends.text_folder import detect_kind, is_served_as_it_is
from errors import ConversionError, DeviceUnavailableError, ModelFolderError, describe_error

logger = logging.getLogger(__name__)

_BY_TORCH = "Not served by OpenVINO but by torch, which is slower: %s"
# Advice in errors, for operators of the image without torch.
_WITH_TORCH = "use the image with torch and the original, whose tag ends in -cuda"


def load_replicas(folder: ModelFolder, options: ModelOptions, devices: str = "cpu") -> list[Model]:
    """Load the model of a folder once for each device.

    Args:
        folder: the model folder.
        options: loading options.
        devices: `cpu`, GPUs separated by commas, or `all` for every GPU.

    Raises:
        ModelFolderError: the folder's content cannot be loaded.
        DeviceUnavailableError: a device is missing, or this build of torch does not run on it.
    """
    if devices == "cpu" or is_served_as_it_is(folder):
        return [load_replica(folder, options)]
    with _torch_wanted("ENABLE_CUDA=1"):
        from backends.runtimes.torch.devices import gpus
    content = _content_for_torch(folder, options)
    return [
        _load_by_torch(folder, replace(options, device=device), content) for device in gpus(devices)
    ]


def load_replica(folder: ModelFolder, options: ModelOptions) -> Model:
    """Load the model of a folder onto a device; fall back to torch if OpenVINO cannot serve it.

    Raises:
        ModelFolderError: the folder's content cannot be loaded.
        DeviceUnavailableError: the device is missing.
    """
    if is_served_as_it_is(folder):
        return _load_as_it_is(folder, options)
    if options.runtime == "openvino" and options.device == "cpu":
        try:
            with _openvino_wanted():
                from backends.runtimes.openvino import runtime

            return runtime.load(folder, options)
        except ConversionError as error:
            if folder.family == "converted":
                raise ModelFolderError(describe_error(error)) from error
            logger.warning(_BY_TORCH, error)
        except DeviceUnavailableError as error:
            if folder.family == "converted" or find_spec("torch") is None:
                raise
            logger.warning(_BY_TORCH, error)
    return _load_by_torch(folder, options, _content_for_torch(folder, options))


def _load_as_it_is(folder: ModelFolder, options: ModelOptions) -> Model:
    if detect_kind(folder) == "onnx":
        with _openvino_wanted():
            from backends.runtimes.openvino import onnx

        model = onnx.load(folder, options)
    else:
        from backends.runtimes.lookup import runtime as lookup

        model = lookup.load(folder, options)
    why = "this model is computed in one precision alone"
    refused = log_refusal(options.precision, model.info.precision, why)
    identity = _identity(folder, known_content(folder, options), get_args(TextMode))
    return _with_space(model, identity, refused)


def _content_for_torch(folder: ModelFolder, options: ModelOptions) -> str:
    if folder.family == "converted":
        raise ModelFolderError(
            f"{folder.root.absolute()} holds a converted model and not the original, which "
            f"RUNTIME=torch and ENABLE_CUDA need: unset them, or {_WITH_TORCH}"
        )
    return known_content(folder, options)


def _load_by_torch(folder: ModelFolder, options: ModelOptions, content: str) -> Model:
    with _torch_wanted("RUNTIME=torch" if options.runtime == "torch" else "this model"):
        from backends.runtimes.torch import devices, runtime

    devices.check(options.device)
    device = f"torch on {devices.describe(options.device)}"
    wanted, supported = options.precision, devices.precisions(options.device)
    precision = usable(wanted, supported)
    # The device may support int8, but this project's torch runtime does not.
    why = "torch does not compute in int8 here" if wanted == "int8" else lacking(device)
    refused = log_refusal(wanted, precision, why)
    log_choice(device, wanted, precision, supported)
    loaded = load_towers(folder, replace(options, precision=precision))
    identity = _identity(folder, content, loaded.text_modes)
    return _with_space(runtime.make_model(loaded), identity, refused)


def _identity(folder: ModelFolder, content: str, text_modes: Sequence[TextMode]) -> Identity:
    return Identity(folder.family, content, PREPROCESSING_VERSIONS[folder.family], text_modes)


def _with_space(model: Model, identity: Identity, refused: str) -> Model:
    """Add the vector or score space, and `refused`, to a model's info.

    Args:
        model: the model, whose towers compute in the precision of its info.
        identity: the model's identity.
        refused: as in `ModelInfo`.
    """
    arithmetic = dict.fromkeys(model.towers, model.info.precision)
    info = with_space(replace(model.info, refused=refused), identity, arithmetic, model.towers)
    return replace(model, info=info)


@contextmanager
def _openvino_wanted() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise DeviceUnavailableError(
            f"this model needs OpenVINO, which cannot be imported ({describe_error(error)}): "
            "install requirements-serve.txt"
        ) from error


@contextmanager
def _torch_wanted(by: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise DeviceUnavailableError(
            f"{by} needs torch, which cannot be imported ({describe_error(error)}): install "
            f"requirements.txt, or {_WITH_TORCH}"
        ) from error

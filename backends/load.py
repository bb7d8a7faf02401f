"""Chooses the runtime, and loads the model of the settings, once for each device.

A runtime is imported only when it is chosen.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import get_args

from backends.conversion.conversion_cache import converted, digest_content, is_converted
from backends.conversion.description import Description
from backends.families import load_towers
from backends.folder import ModelFolder, detect, lone_conversions
from backends.identity import PREPROCESSING_VERSIONS, Identity, with_space
from backends.model import Modality, Model, ModelOptions, Precision, TextMode
from backends.precision import lacking, log_choice, log_refusal, usable
from backends.text_folder import DECODERS, detect_kind, is_served_as_it_is
from config import Settings, forbid_hub_access, is_on, limit_compute_threads
from errors import (
    ConversionError,
    DeviceUnavailableError,
    ModelFolderError,
    describe_error,
)
from machine import keep_freed_memory, usable_cores

logger = logging.getLogger(__name__)

_WEIGHTS = {".bin", ".safetensors", ".pt", ".pth", ".onnx"}
_BY_TORCH = "Not served by OpenVINO but by torch, which is slower: %s"
_DECODER = (
    "%s in model/ is pooled as the reference pools it, by the mean of the tokens or the first "
    "token. It was trained with another pooling and with prompts, so it finds less. For its own "
    "vectors, download it with USE_SENTENCE_TRANSFORMERS_VECTORIZER=true"
)
# Advice in errors, for operators of the image without torch.
_WITH_TORCH = "use the image with torch and the original, whose tag ends in -cuda"


def load_model(settings: Settings, *, converts: bool = True) -> list[Model]:
    """Load the model of the settings; return a copy for each device.

    Args:
        settings: the settings of the model.
        converts: whether a model that is not converted is converted first, which takes minutes.

    Raises:
        StartupError: the operator must change something, such as a setting or the model folder.
    """
    folder = detect(settings.models_dir)
    logger.info("Loading the %s model in %s", folder.family, folder.root.absolute())
    _prepare_libraries()
    keep_freed_memory()
    devices = settings.cuda_core if settings.enable_cuda else "cpu"
    options = replace(options_for(folder, settings), converts=converts)
    replicas = load_replicas(folder, options, devices)
    if (family := replicas[0].info.family) in DECODERS.values():
        logger.warning(_DECODER, family)
    found, revision = folder.name
    name = settings.served_model_name or found
    return [replace(one, info=replace(one.info, name=name, revision=revision)) for one in replicas]


def _prepare_libraries() -> None:
    """Set what the model libraries and conversion jobs read once from the environment."""
    forbid_hub_access()
    limit_compute_threads(usable_cores())


def needs_conversion(settings: Settings) -> bool:
    """Return whether a model must be converted before it is loaded; its conversion is looked up.

    A model that cannot be read needs none: its load reports why.
    """
    try:
        folder = detect(settings.models_dir)
        options = options_for(folder, settings)
        is_by_torch = settings.enable_cuda or settings.runtime == "torch"
        if is_by_torch or is_served_as_it_is(folder):
            return False
        return not is_converted(folder, options)
    except Exception as error:  # noqa: BLE001 - any failure
        logger.info("%s cannot be read: %s", settings.models_dir, describe_error(error))
        return False


def convert_ahead(settings: Settings) -> None:
    """Convert a model before it is loaded, which takes minutes.

    Errors are only logged: the load reports them again, or serves the model by torch.
    """
    try:
        folder = detect(settings.models_dir)
        logger.info("Converting the %s model in %s", folder.family, folder.root.absolute())
        _prepare_libraries()
        converted(folder, options_for(folder, settings))
    except Exception as error:  # noqa: BLE001 - any failure
        logger.warning("%s was not converted: %s", settings.models_dir, describe_error(error))


def modality_of(settings: Settings) -> Modality:
    """Return what a model reads that is not loaded: pairs, images (and texts), or texts.

    Raises:
        ModelFolderError: the folder holds no model, or an incomplete one.
    """
    folder = detect(settings.models_dir)
    if folder.family == "text":
        return "pair" if detect_kind(folder) == "reranker" else "text"
    if folder.family == "converted":
        return Description.read(lone_conversions(folder.root)[0]).modality
    return "image"


def stored_bytes(settings: Settings) -> int:
    """Return the size of a model's weight files, converted ones if there are any."""
    places = lone_conversions(settings.models_dir) or [settings.models_dir]
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files if path.suffix in _WEIGHTS)


def options_for(folder: ModelFolder, settings: Settings) -> ModelOptions:
    """Return the loading options, from the settings and from files of the model folder."""
    stored = folder.trust_remote_code  # written by download.py; overrides the setting
    precision: Precision | None = "int8" if detect_kind(folder) == "onnx_recipe" else None
    return ModelOptions(
        text_mode=settings.text_mode,
        trust_remote_code=settings.trust_remote_code if stored is None else is_on(stored),
        precision=settings.precision or precision,
        runtime=settings.runtime,
        cache_dir=settings.runtime_cache_dir,
        cores=usable_cores(),
        direct_tokenize=settings.t2v_transformers_direct_tokenize,
        prefixes=settings.use_query_passage_prefixes,
        max_num_patches=settings.max_num_patches,
        max_image_tiles=settings.max_image_tiles,
        max_read_pixels=settings.max_read_pixels,
    )


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
    identity = _identity(folder, digest_content(folder, options), get_args(TextMode))
    return _with_space(model, identity, refused)


def _content_for_torch(folder: ModelFolder, options: ModelOptions) -> str:
    if folder.family == "converted":
        raise ModelFolderError(
            f"{folder.root.absolute()} holds a converted model and not the original, which "
            f"RUNTIME=torch and ENABLE_CUDA need: unset them, or {_WITH_TORCH}"
        )
    return digest_content(folder, options)


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
    """Return a model with its vector or score space, and with `refused`, in its info.

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

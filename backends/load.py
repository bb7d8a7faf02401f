"""Loads the model that the settings name, and finds facts about it without loading it."""

from __future__ import annotations

import logging
from dataclasses import replace

from backends.conversion.conversion_cache import converted
from backends.conversion.description import Description
from backends.conversion.entries import is_converted
from backends.folder import ModelFolder, detect, lone_conversions
from backends.model import Modality, Model, ModelOptions, Precision
from backends.replicas import load_replicas
from backends.text_folder import DECODERS, detect_kind, is_served_as_it_is
from config import Settings, forbid_hub_access, is_on, limit_compute_threads
from errors import describe_error
from machine import keep_freed_memory, usable_cores

logger = logging.getLogger(__name__)

_WEIGHTS = {".bin", ".safetensors", ".pt", ".pth", ".onnx"}
_DECODER = (
    "%s in model/ is pooled as the reference pools it, by the mean of the tokens or the first "
    "token. It was trained with another pooling and with prompts, so it finds less. For its own "
    "vectors, download it with USE_SENTENCE_TRANSFORMERS_VECTORIZER=true"
)


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
    """Set environment variables that the model libraries and conversion jobs read only once."""
    forbid_hub_access()
    limit_compute_threads(usable_cores())


def needs_conversion(settings: Settings) -> bool:
    """Return whether a model must be converted before it is loaded.

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
    """Return which inputs the model of a folder reads, without loading it: pairs, images or texts.

    A model that reads images also reads texts.

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
    """Return the size of a model's weight files, or of the converted models if there are any."""
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

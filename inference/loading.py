"""Settings -> the loaded model, once for each device; and how it is to be loaded."""

from __future__ import annotations

import logging

from config import Settings, forbid_hub_access, is_on, limit_compute_threads
from inference.backends import load_replicas
from inference.backends.base import BackendOptions, EmbeddingBackend
from inference.machine import keep_freed_memory, usable_cores
from inference.model_folder import ModelFolder, detect

logger = logging.getLogger(__name__)


def load_model(settings: Settings) -> list[EmbeddingBackend]:
    """Load the model that the settings name, in a process made ready for it.

    Raises:
        StartupError: something is missing that the operator must mend.
    """
    folder = detect(settings.models_dir)
    logger.info("Loading the %s model in %s", folder.family, folder.root.absolute())
    forbid_hub_access()
    limit_compute_threads(usable_cores())
    keep_freed_memory()
    devices = settings.cuda_core if settings.enable_cuda else "cpu"
    return load_replicas(folder, options_for(folder, settings), devices)


def options_for(folder: ModelFolder, settings: Settings) -> BackendOptions:
    """Return how the settings, and what download.py left in the folder, want a model loaded."""
    baked = folder.trust_remote_code  # as download.py left it; it beats the variable
    return BackendOptions(
        text_mode=settings.text_mode,
        trust_remote_code=settings.trust_remote_code if baked is None else is_on(baked),
        precision=settings.precision,
        runtime=settings.runtime,
        cache_dir=settings.runtime_cache_dir,
        cores=usable_cores(),
    )

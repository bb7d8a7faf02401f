"""A tiny model (BERT, 32 dimensions), to measure the service and not the model."""

from __future__ import annotations

from pathlib import Path

from backends.conversion.conversion_cache import converted
from backends.folder import detect
from backends.load import options_for
from bench.service import ROOT
from config import Settings, read

SETTINGS = {
    "MODELS_DIR": str(ROOT / "tests" / "golden_text" / "bert"),
    "RUNTIME": "openvino",
    "RUNTIME_CACHE_DIR": str(ROOT / "build" / "bench-models" / "converted"),
    "TEXT_MODE": "trained",
    "PRECISION": "float32",
}


def settings(**more: object) -> Settings:
    """Return settings that serve the tiny model in this process."""
    own = {name.lower(): value for name, value in SETTINGS.items()}
    return Settings.model_validate({**read(Settings).model_dump(), **own, **more})


def converted_folder() -> Path:
    """Return the folder of the converted tiny model; convert it if needed."""
    folder = detect(Path(SETTINGS["MODELS_DIR"]))
    return converted(folder, options_for(folder, settings()))

"""The models that the benchmark makes: their names, and where they lie. Free to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.service import ROOT

FAMILIES = (
    "openai",
    "openai-vit-l14",
    "sentence_transformers",
    "multilingual",
    "openclip",
    "siglip2",
    "naflex",
    "modernvbert",
    "minilm",
    "bge-base",
    "model2vec",
)
TEXTS = ("minilm", "bge-base", "model2vec")  # of the text container
DEFAULT = "openai"
COMPLETE = "complete"  # a file, written when the rest of a folder is there


def family_folder(family: str) -> Path:
    """Return the folder of a family's model, whether or not it is there."""
    return ROOT / "build" / "bench-models" / family


def model_folder(family: str) -> Path:
    """Return the folder of a family's model; where it is not there, another process makes it."""
    folder = family_folder(family)
    if not (folder / COMPLETE).is_file():
        print(f"  making the {family} model in {folder}", file=sys.stderr)
        subprocess.run((sys.executable, "-m", "bench.make_models", family), check=True, cwd=ROOT)
    return folder

"""Names and folders of the benchmark's models; imports no model library."""

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
TEXTS = ("minilm", "bge-base", "model2vec")  # text models
DEFAULT = "openai"
COMPLETE = "complete"  # a file that marks a folder as complete


def family_folder(family: str) -> Path:
    """Return the path of a family's model, which may not exist yet."""
    return ROOT / "build" / "bench-models" / family


def model_folder(family: str) -> Path:
    """Return the folder of a family's model; if it is missing, a process makes it."""
    folder = family_folder(family)
    if not (folder / COMPLETE).is_file():
        print(f"  making the {family} model in {folder}", file=sys.stderr)
        subprocess.run((sys.executable, "-m", "bench.make_models", family), check=True, cwd=ROOT)
    return folder

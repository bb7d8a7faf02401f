"""A model converted for OpenVINO: found where it was kept, or made once, in a process of its own.

    cache_dir/<family>-<text mode>-<fingerprint>/
        model.json                  what is known of the model, and how its inputs are prepared
        tokenizer.json              the vocabulary (of SigLIP 1: spiece.model, special_tokens.json)
        images.xml, images.bin      the networks
        texts.xml, texts.bin

The name holds a fingerprint of the model's files, so a changed model is converted anew. A process
of its own, as torch and the weights would else stay in the server's memory; it proves what it has
made (see `converting.py`) before that gets its name.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from inference.backends.base import BackendOptions, ModelInfo
from inference.backends.pixels import Geometry
from inference.backends.tokens import Padding, TextRecipe
from inference.errors import ConversionError, DownloadError
from inference.model_folder import LAYOUTS, ModelFolder
from inference.staging import install, staging

logger = logging.getLogger(__name__)

FOLDER = "converted"  # the cache's name in a model folder
IMAGES, TEXTS, VOCABULARY = "images.xml", "texts.xml", "tokenizer.json"
REFUSAL = "refusal.txt"  # in place of all that, for a model that no later try would convert either
_DESCRIPTION = "model.json"
_FORMAT = "2"  # raise it when what is written changes
_TIMEOUT_S = 900
_ROOT = Path(__file__).resolve().parents[2]
# Of a large file this much is read, at so many places: half a gigabyte would delay every start.
_SAMPLE_BYTES, _SAMPLES = 1 << 16, 64


@dataclass(frozen=True)
class Description:
    """What a converted model's networks do not say."""

    info: ModelInfo
    geometry: Geometry
    recipe: TextRecipe

    def write(self, folder: Path) -> None:
        """Write it into a converted model's folder."""
        (folder / _DESCRIPTION).write_text(json.dumps(asdict(self), indent=2) + "\n", "utf-8")

    @classmethod
    def read(cls, folder: Path) -> Description:
        """Read it from there."""
        parts: dict[str, Any] = json.loads((folder / _DESCRIPTION).read_text("utf-8"))
        geometry, recipe = parts["geometry"], parts["recipe"]
        pairs = {name: tuple(geometry[name]) for name in ("size_px", "crop_px") if geometry[name]}
        padding = Padding(**recipe["padding"])
        return cls(
            ModelInfo(**parts["info"]),
            Geometry(**{**geometry, **pairs}),
            TextRecipe(**{**recipe, "padding": padding}),
        )


def converted(folder: ModelFolder, options: BackendOptions) -> Path:
    """Return the folder of the converted model; where there is none yet, make it.

    Raises:
        ConversionError: it cannot be converted, or not be kept.
    """
    cache = options.cache_dir or folder.root / FOLDER
    name = f"{folder.family}-{options.text_mode}-{fingerprint(folder)[:16]}"
    if not (cache / name).is_dir():
        _make(folder, options, cache, name)
    if (cache / name / REFUSAL).is_file():
        raise ConversionError((cache / name / REFUSAL).read_text("utf-8").strip())
    return cache / name


def fingerprint(folder: ModelFolder) -> str:
    """Digest the names, the sizes and samples of the content of a model's files."""
    digest = hashlib.sha256(f"{_FORMAT} {version('openvino')}".encode())
    for path in _files(folder):
        digest.update(f"{path.relative_to(folder.root)} {path.stat().st_size}".encode())
        for sample in _samples(path):
            digest.update(sample)
    return digest.hexdigest()


def _files(folder: ModelFolder) -> Iterator[Path]:
    for name in (*LAYOUTS[folder.family], "trust_remote_code", "demo.json"):
        part = folder.part(name)
        yield from sorted(path for path in (part, *part.rglob("*")) if path.is_file())


def _samples(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    step = max(_SAMPLE_BYTES, size // _SAMPLES)
    with path.open("rb") as file:
        for start in range(0, size, step):
            file.seek(start)
            yield file.read(_SAMPLE_BYTES)


def _make(folder: ModelFolder, options: BackendOptions, cache: Path, name: str) -> None:
    try:
        with staging(cache, wait=True) as scratch:
            if not (cache / name).is_dir():  # another start may have made it meanwhile
                _convert(folder, options, scratch / name)
                install(scratch, cache, [name])
    except DownloadError as error:
        raise ConversionError(
            f"{error}. Let RUNTIME_CACHE_DIR name a folder that can be written, "
            "or convert at build time with download.py"
        ) from error


def _convert(folder: ModelFolder, options: BackendOptions, target: Path) -> None:
    logger.info("Converting the model for OpenVINO, once; about half a minute")
    started_s = time.perf_counter()
    job = {
        "root": str(folder.root.absolute()),
        "target": str(target.absolute()),
        "text_mode": options.text_mode,
        "trust": options.trust_remote_code,
    }
    process = subprocess.run(
        [sys.executable, "-m", "inference.backends.converting"],
        cwd=_ROOT,
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
    )
    _raise_where_failed(process)
    logger.info("Converted in %.1f s: %s", time.perf_counter() - started_s, target.name)


def _raise_where_failed(process: subprocess.CompletedProcess[str]) -> None:
    if process.returncode != 0:
        end = process.stderr.strip().rpartition("\n")[2] or "is there enough memory?"
        raise ConversionError(f"the conversion ended with {process.returncode}: {end}")
    answer: dict[str, str] = json.loads(process.stdout.splitlines()[-1])
    if "error" in answer:
        raise ConversionError(answer["error"])

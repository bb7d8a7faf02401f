#!/usr/bin/env python3
"""Build time: the variables that name a model -> that model in the model folder.

    environment -> plan -> fetch into models/.download -> check that it loads -> move into place

Needs `config.py` and `inference/` beside it and nothing else of the service, so that an image
build can run it before the rest of the code is copied. What it writes is what the reference's
`download.py` writes, plus what an OpenCLIP model with a Hugging Face text tower needs to start
without a network.
"""

from __future__ import annotations

import errno
import json
import logging
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from config import DownloadSettings, read
from inference.errors import DownloadError, ModelFolderError, StartupError
from inference.model_folder import LAYOUTS, Family, detect

logger = logging.getLogger(__name__)

OPENAI_PREFIXES = ("openai/", "facebook/metaclip")
# A processor's files on the hub; the weights beside them are fetched by the model itself.
PROCESSOR_FILES = ["*.json", "*.model", "*.txt"]


@dataclass(frozen=True)
class Plan:
    """What is to be fetched: a family, and how its parts get into a folder."""

    family: Family
    fetch: Callable[[Path], None]


def plan(settings: DownloadSettings) -> Plan:
    """Choose the family that the variables name, by the reference's precedence.

    Raises:
        DownloadError: a variable is missing, or its value cannot be served.
    """
    if settings.colpali_engine_model_name:
        raise DownloadError("COLPALI_ENGINE_MODEL_NAME: ModernVBERT is planned, not yet supported")
    if settings.siglip_model_name:
        return Plan("siglip", lambda folder: fetch_siglip(settings, folder))
    if settings.open_clip_model_name and settings.open_clip_pretrained:
        return Plan("openclip", lambda folder: fetch_openclip(settings, folder))
    if not settings.text_model_name:
        raise DownloadError("TEXT_MODEL_NAME is required")
    if not settings.clip_model_name:
        raise DownloadError("CLIP_MODEL_NAME is required")
    if not _wants_openai(settings):
        return Plan("sentence_transformers", lambda folder: fetch_towers(settings, folder))
    if settings.clip_model_name != settings.text_model_name:
        raise DownloadError("For OpenAI models CLIP_MODEL_NAME and TEXT_MODEL_NAME must be equal")
    return Plan("openai", lambda folder: fetch_openai(settings, folder))


def _wants_openai(settings: DownloadSettings) -> bool:
    forced = settings.clip_model_type.lower() == "openai"
    return forced or settings.clip_model_name.startswith(OPENAI_PREFIXES)


def fetch_openai(settings: DownloadSettings, folder: Path) -> None:
    """Fetch an OpenAI CLIP or a MetaCLIP 2, each saved by its own class."""
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoTokenizer,
        CLIPModel,
        MetaClip2Model,
    )

    name, options = settings.clip_model_name, {"revision": settings.clip_model_revision}
    config = AutoConfig.from_pretrained(name, **options)
    kind = MetaClip2Model if config.model_type == "metaclip_2" else CLIPModel
    kind.from_pretrained(name, dtype="auto", **options).save_pretrained(folder / "openai_clip")
    for processor in (AutoTokenizer, AutoImageProcessor):
        loaded = processor.from_pretrained(name, **options)
        loaded.save_pretrained(folder / "openai_clip_processor")


def fetch_siglip(settings: DownloadSettings, folder: Path) -> None:
    """Fetch a SigLIP, with its processor in a hub cache inside the model's folder."""
    from huggingface_hub import snapshot_download
    from transformers import SiglipModel

    name, revision = settings.siglip_model_name, settings.siglip_model_revision
    model = SiglipModel.from_pretrained(name, dtype="auto", revision=revision)
    model.save_pretrained(folder / "siglip")
    snapshot_download(
        name, revision=revision, cache_dir=folder / "siglip", allow_patterns=PROCESSOR_FILES
    )
    (folder / "model_name").write_text(name)


def fetch_towers(settings: DownloadSettings, folder: Path) -> None:
    """Fetch two sentence-transformers models; one that does both is fetched once."""
    from sentence_transformers import SentenceTransformer

    trust = settings.trust_remote_code
    wanted = {
        "clip": (settings.clip_model_name, settings.clip_model_revision),
        "text": (settings.text_model_name, settings.text_model_revision),
    }
    for part, (name, revision) in wanted.items():
        model = SentenceTransformer(name, revision=revision, trust_remote_code=trust, device="cpu")
        model.save(str(folder / part), create_model_card=False)


def fetch_openclip(settings: DownloadSettings, folder: Path) -> None:
    """Fetch an OpenCLIP checkpoint, and the config and tokenizer of a foreign text tower."""
    import open_clip
    from huggingface_hub import snapshot_download

    name, tag = settings.open_clip_model_name, settings.open_clip_pretrained
    _check_pair(name, tag, open_clip.list_pretrained())
    cache = folder / "openclip"
    open_clip.download_pretrained(open_clip.get_pretrained_cfg(name, tag), cache_dir=str(cache))
    architecture = open_clip.get_model_config(name)
    text = architecture["text_cfg"]
    for tower in {text.get("hf_model_name"), text.get("hf_tokenizer_name")} - {None}:
        snapshot_download(tower, cache_dir=cache, allow_patterns=PROCESSOR_FILES)
    description = {
        "model_name": name,
        "pretrained": tag,
        "model_config": architecture,
        "cache_dir": "./models/openclip",
    }
    (cache / "config.json").write_text(json.dumps(description))


def _check_pair(name: str, tag: str, known: list[tuple[str, str]]) -> None:
    if (name, tag) in known:
        return
    names = [f"{model} {pretrained}" for model, pretrained in known]
    close = get_close_matches(f"{name} {tag}", names, n=5) or names
    raise DownloadError(
        f"open_clip knows no model OPEN_CLIP_MODEL_NAME={name} with OPEN_CLIP_PRETRAINED={tag}; "
        f"close to it are: {', '.join(close)}"
    )


def download(settings: DownloadSettings) -> None:
    """Bring the model into the model folder, whole or not at all.

    Raises:
        DownloadError: it could not be fetched, or what was fetched does not work.
    """
    wanted = plan(settings)
    root = settings.models_dir
    _refuse_other_family(root, wanted.family)
    staging = root / ".download"
    shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
    try:
        staging.mkdir(parents=True)
        logger.info("Downloading into %s", root.absolute())
        wanted.fetch(staging)
        _check(staging)
        (staging / "trust_remote_code").write_text(str(settings.trust_remote_code).lower())
        _move_into_place(staging, root, wanted.family)
    except StartupError:
        raise
    except Exception as error:
        raise DownloadError(_why_failed(error)) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _refuse_other_family(root: Path, family: Family) -> None:
    there = [other for other, parts in LAYOUTS.items() if (root / parts[0]).exists()]
    if set(there) - {family}:
        raise DownloadError(
            f"{root.absolute()} already holds another family, {there[0]}; "
            "empty it, or point MODELS_DIR elsewhere"
        )


def _check(staging: Path) -> None:
    """Load what was fetched as the service will, and embed a text and a picture with it."""
    from PIL import Image

    from inference.backends import load_backend
    from inference.backends.base import BackendOptions

    backend = load_backend(detect(staging), BackendOptions())
    texts = backend.encode_text(["a picture"])
    images = backend.encode_image([backend.preprocess(Image.new("RGB", (64, 48)))])
    if texts.shape[1] != images.shape[1]:
        raise DownloadError(
            f"the two models do not belong together: texts get {texts.shape[1]} dimensions, "
            f"pictures {images.shape[1]}"
        )
    logger.info("Checked: %s, %d dimensions", backend.info.family, backend.info.dimensions)


def _move_into_place(staging: Path, root: Path, family: Family) -> None:
    # The first part of a layout is what a start looks for, so it leaves first and arrives last.
    first, *others = LAYOUTS[family]
    for name in (first, *others):
        _remove(root / name)
    for name in (*others, "trust_remote_code", first):
        (staging / name).rename(root / name)
    logger.info("The model is in %s", root.absolute())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _why_failed(error: Exception) -> str:
    """Say in a sentence why a download failed, whatever library said it first."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and len(chain) < 10:
        chain.append(cause)  # type: ignore[arg-type]
    names = {type(link).__name__ for link in chain}
    if any(getattr(link, "errno", None) == errno.ENOSPC for link in chain):
        return "the disk is full"
    if "GatedRepoError" in names:
        return "the model is gated: accept its terms on the hub, and set HF_TOKEN"
    if names & {"RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError"}:
        return f"the hub does not know the model: {_first_line(error)}"
    if names & {"LocalEntryNotFoundError", "ConnectError", "ConnectTimeout", "ConnectionError"}:
        return "the hub cannot be reached: is there a network?"
    return _first_line(error)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def main() -> None:
    """Download what the environment names; exit with 1 and one sentence where that fails."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        download(read(DownloadSettings))
    except (DownloadError, ModelFolderError, StartupError) as error:
        sys.exit(f"Fatal: {error}")


if __name__ == "__main__":
    main()

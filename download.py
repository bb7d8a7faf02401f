#!/usr/bin/env python3
"""Build time: the variables that name a model -> that model in the model folder, or nothing.

    environment, or --model TAG -> plan -> fetch from the hub -----------> staging folder
                                            a process without network:        |
                                            save in the layout, load, embed <-'-> into place

Needs `config.py`, `catalogue.py`, `catalogue.json` and `inference/`, nothing else of the service,
so that an image build can run it before the rest of the code is copied. The layouts are those of
the reference's `download.py`; MetaCLIP 2 is saved by its own class, and an OpenCLIP model with a
foreign text tower with what that needs to start without a network.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeAlias

import catalogue
from config import DownloadSettings, forbid_hub_access, read
from inference.errors import DownloadError, StartupError
from inference.hub import Hub, Snapshot, Wanted, as_hub_cache, model_files, small_files, with_code
from inference.model_folder import LAYOUTS, Family, detect
from inference.staging import RECORD, install, is_whole, staging, why, write_record

logger = logging.getLogger(__name__)

Sources: TypeAlias = dict[str, Path]  # what a family's save function reads
_OPENAI_PREFIXES = ("openai/", "facebook/metaclip")


@dataclass(frozen=True)
class Plan:
    """What is to be fetched.

    Attributes:
        family: the layout.
        wanted: the models on the hub, by the part of the layout that they are for.
        pretrained: OpenCLIP's tag; its architecture and checkpoint are looked up later.
    """

    family: Family
    wanted: dict[str, Wanted]
    pretrained: str = ""

    def request(self, trust_remote_code: str) -> dict[str, str]:
        """Describe the plan, so that a later run can tell whether it wants the same."""
        models = {w.variable: f"{w.name}@{w.revision or ''}" for w in self.wanted.values()}
        return {**models, "pretrained": self.pretrained, "trust_remote_code": trust_remote_code}


def plan(settings: DownloadSettings) -> Plan:
    """Choose the family that the variables name, by the reference's precedence.

    Raises:
        DownloadError: a variable is missing, or its value cannot be served.
    """
    if settings.colpali_engine_model_name:
        raise DownloadError(
            f"COLPALI_ENGINE_MODEL_NAME={settings.colpali_engine_model_name}: "
            "ModernVBERT is planned, not yet supported"
        )
    if name := settings.siglip_model_name:
        wanted = Wanted(name, "SIGLIP_MODEL_NAME", settings.siglip_model_revision)
        return Plan("siglip", {"model": wanted})
    if (name := settings.open_clip_model_name) and settings.open_clip_pretrained:
        wanted = Wanted(name, "OPEN_CLIP_MODEL_NAME", settings.open_clip_revision)
        return Plan("openclip", {"model": wanted}, settings.open_clip_pretrained)
    for name in ("TEXT_MODEL_NAME", "CLIP_MODEL_NAME"):
        if not getattr(settings, name.lower()):
            raise DownloadError(f"{name} is required")
    return _plan_pair(settings)


def _plan_pair(settings: DownloadSettings) -> Plan:
    clip, text = settings.clip_model_name, settings.text_model_name
    revision = settings.clip_model_revision
    forced = settings.clip_model_type.lower() == "openai"
    if not (forced or clip.startswith(_OPENAI_PREFIXES)):
        organisation = "sentence-transformers"
        towers = {
            "clip": Wanted(clip, "CLIP_MODEL_NAME", revision, organisation),
            "text": Wanted(text, "TEXT_MODEL_NAME", settings.text_model_revision, organisation),
        }
        return Plan("sentence_transformers", towers)
    if clip != text:
        raise DownloadError(
            f"CLIP_MODEL_NAME={clip} is an OpenAI CLIP, which does both: "
            f"TEXT_MODEL_NAME={text} must be equal to it"
        )
    wanted = Wanted(clip, "CLIP_MODEL_NAME", revision or settings.text_model_revision)
    return Plan("openai", {"model": wanted})


# In this process, from the hub.


def fetch(wanted: Plan, hub: Hub, folder: Path, trust: bool) -> Sources:
    """Fetch what a plan wants; what needs no model library goes into the layout at once.

    Raises:
        DownloadError: the hub does not have it, or cannot be reached.
    """
    if wanted.family == "openclip":
        _fetch_openclip(wanted, hub, folder / "openclip")
        return {}
    choose = with_code(model_files) if trust else model_files
    snapshots = {part: hub.fetch(model, choose) for part, model in wanted.wanted.items()}
    if trust:
        for snapshot in snapshots.values():
            hub.fetch_code_of(snapshot)
    if wanted.family == "siglip":
        as_hub_cache(snapshots["model"], _small_files_of(snapshots["model"]), folder / "siglip")
        (folder / "model_name").write_text(wanted.wanted["model"].name)
    return {part: snapshot.path for part, snapshot in snapshots.items()}


def _small_files_of(snapshot: Snapshot) -> list[str]:
    return small_files([path.name for path in snapshot.path.iterdir() if path.is_file()])


def _fetch_openclip(wanted: Plan, hub: Hub, folder: Path) -> None:
    import open_clip

    model = wanted.wanted["model"]
    _check_pair(model.name, wanted.pretrained, open_clip.list_pretrained())
    entry = open_clip.get_pretrained_cfg(model.name, wanted.pretrained)["hf_hub"]
    repository, _, file = entry.rpartition("/")  # "org/name/file", or "org/name/"
    checkpoint = Wanted(repository, model.variable, model.revision)
    snapshot = hub.fetch(checkpoint, lambda files: _checkpoint(file, files))
    as_hub_cache(snapshot, [path.name for path in snapshot.path.iterdir()], folder)
    architecture = open_clip.get_model_config(model.name)
    text = architecture["text_cfg"]
    for tower in sorted({text.get("hf_model_name"), text.get("hf_tokenizer_name")} - {None}):
        snapshot = hub.fetch(Wanted(tower, f"text tower of {model.name}"), small_files)
        as_hub_cache(snapshot, _small_files_of(snapshot), folder)
    description = {
        "model_name": model.name,
        "pretrained": wanted.pretrained,
        "model_config": architecture,
        "cache_dir": "./models/openclip",
    }
    (folder / "config.json").write_text(json.dumps(description))


def _checkpoint(file: str, files: Sequence[str]) -> list[str]:
    # Source: open_clip's download_pretrained_from_hf, which prefers safetensors as well.
    names = [Path(file).with_suffix(".safetensors").name, file]
    if not file:
        names = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    found = [name for name in names if name in files]
    if not found:
        raise DownloadError(f"holds no checkpoint of OpenCLIP: neither {' nor '.join(names)}")
    return found[:1]


def _check_pair(name: str, tag: str, known: Sequence[tuple[str, str]]) -> None:
    if (name, tag) in known:
        return
    tags = [pretrained for model, pretrained in known if model == name]
    pairs = {f"{model} with {pretrained}": None for model, pretrained in known}
    close = get_close_matches(f"{name} with {tag}", pairs, n=5, cutoff=0.5)
    raise DownloadError(
        f"open_clip knows no pair OPEN_CLIP_MODEL_NAME={name}, OPEN_CLIP_PRETRAINED={tag}"
        + (f"; {name} goes with {', '.join(tags)}" if tags else f"; close to it: {close}")
    )


# In a process of its own, without network: from the hub's files to the layout, and the proof.


@dataclass(frozen=True)
class Job:
    """What that process has to do."""

    family: Family
    folder: str
    sources: dict[str, str]
    trust: bool


def finish(job: Job) -> dict[str, object]:
    """Save what was fetched in its layout, load it as the service will, and embed with it.

    Raises:
        StartupError: what was fetched is no such model, or does not work.
    """
    folder = Path(job.folder)
    sources = {part: Path(path) for part, path in job.sources.items()}
    _SAVE[job.family](sources, folder / "parts", job.trust)
    shutil.rmtree(folder / "hub", ignore_errors=True)  # the check sees what a start will see
    return check(folder / "parts", job.trust)


def _save_openai(sources: Sources, folder: Path, trust: bool) -> None:  # noqa: ARG001
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel, MetaClip2Model

    kind = _kind_of(sources["model"], {"clip": CLIPModel, "metaclip_2": MetaClip2Model})
    _save(kind, sources["model"], folder / "openai_clip", dtype="auto")
    for processor in (AutoTokenizer, CLIPImageProcessor):
        _save(processor, sources["model"], folder / "openai_clip_processor")


def _save_siglip(sources: Sources, folder: Path, trust: bool) -> None:  # noqa: ARG001
    from transformers import SiglipModel

    kind = _kind_of(sources["model"], {"siglip": SiglipModel})
    _save(kind, sources["model"], folder / "siglip", dtype="auto")


def _save_sentence_transformers(sources: Sources, folder: Path, trust: bool) -> None:
    from sentence_transformers import SentenceTransformer

    for part, source in sources.items():
        twin = folder / "clip"
        if part == "text" and source == sources["clip"]:
            shutil.copytree(twin, folder / part, copy_function=_link)
        else:
            model = SentenceTransformer(str(source), device="cpu", trust_remote_code=trust)
            model.save(str(folder / part), create_model_card=False)


def _save_nothing(sources: Sources, folder: Path, trust: bool) -> None:
    """OpenCLIP's checkpoints are served as the hub has them."""


_SAVE: dict[Family, Callable[[Sources, Path, bool], None]] = {
    "openai": _save_openai,
    "siglip": _save_siglip,
    "openclip": _save_nothing,
    "sentence_transformers": _save_sentence_transformers,
}

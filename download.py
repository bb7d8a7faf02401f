#!/usr/bin/env python3
"""Build time: the variables that name a model -> that model in the model folder, or nothing.

    environment, or --model TAG -> plan -> fetch from the hub -----------> staging folder
                                        save in the layout, load, embed <--'
                                        (a process without network) -----> into place
                                        convert for OpenVINO (another) --> beside it

Needs `config.py`, `catalogue.py`, `catalogue.json` and `inference/`, nothing else of the service,
so that an image build can run it before the rest of the code is copied. The layouts are those of
the reference's `download.py`; MetaCLIP 2 is saved by its own class, and an OpenCLIP model with a
foreign text tower with what that needs to start without a network.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import catalogue
from config import DownloadSettings, Settings, forbid_hub_access, read, trusts_remote_code
from inference.backends.base import BackendOptions
from inference.errors import ConversionError, DownloadError, StartupError
from inference.hub import Hub, Snapshot, Wanted, as_hub_cache, model_files, small_files, with_code
from inference.model_folder import LAYOUTS, Family, detect
from inference.staging import RECORD, disk_fault, install, is_whole, staging, why, write_record

logger = logging.getLogger(__name__)

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


def fetch(wanted: Plan, hub: Hub, folder: Path, trust: bool) -> dict[str, Path]:
    """Fetch what a plan wants; what is served as it is goes into the layout at once.

    Returns:
        By part, the files that are still to be saved in the layout.

    Raises:
        DownloadError: the hub does not have it, or cannot be reached.
    """
    if wanted.family == "openclip":
        _fetch_openclip(wanted, hub, folder / "openclip")
        return {}
    choose = with_code(model_files) if trust else model_files
    models = {(model.name, model.revision): model for model in wanted.wanted.values()}
    fetched = {key: hub.fetch(model, choose) for key, model in models.items()}
    snapshots = {p: fetched[model.name, model.revision] for p, model in wanted.wanted.items()}
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
    check_pair(model.name, wanted.pretrained, open_clip.list_pretrained())
    entry = open_clip.get_pretrained_cfg(model.name, wanted.pretrained)["hf_hub"]
    repository, _, file = entry.rpartition("/")  # "org/name/file", or "org/name/"
    checkpoint = Wanted(repository, model.variable, model.revision)
    snapshot = hub.fetch(checkpoint, lambda files: _checkpoint(file, files))
    as_hub_cache(snapshot, [path.name for path in snapshot.path.iterdir()], folder)
    architecture = open_clip.get_model_config(model.name)
    text = architecture["text_cfg"]
    for tower in sorted({text.get("hf_model_name"), text.get("hf_tokenizer_name")} - {None}):
        revision = model.revision if tower == repository else None
        snapshot = hub.fetch(Wanted(tower, f"text tower of {model.name}", revision), small_files)
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
    names = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    if file:
        names = [Path(file).with_suffix(".safetensors").name, file]
    found = [name for name in names if name in files]
    if not found:
        raise DownloadError(f"holds no checkpoint of OpenCLIP: neither {' nor '.join(names)}")
    return found[:1]


def check_pair(name: str, tag: str, known: Sequence[tuple[str, str]]) -> None:
    """Check that open_clip has a checkpoint of that tag for that architecture.

    Raises:
        DownloadError: it has not; the message holds the tags or the pairs that come close.
    """
    if (name, tag) in known:
        return
    tags = [pretrained for model, pretrained in known if model == name]
    pairs = [f"{model} with {pretrained}" for model, pretrained in known]
    close = get_close_matches(f"{name} with {tag}", pairs, n=5, cutoff=0.5)
    hint = f"{name} goes with {', '.join(tags)}" if tags else f"close to it: {', '.join(close)}"
    raise DownloadError(
        f"open_clip knows no pair OPEN_CLIP_MODEL_NAME={name}, OPEN_CLIP_PRETRAINED={tag}; {hint}"
    )


# From the plan to the model in its place.


def download(settings: DownloadSettings) -> None:
    """Bring the model into the model folder, whole or not at all.

    Raises:
        DownloadError: it could not be fetched, or what was fetched does not work.
    """
    wanted = plan(settings)
    root = settings.models_dir or Path("./models")
    _refuse_other_family(root, wanted.family)
    request = wanted.request(settings.trust_remote_code)
    if is_whole(root, request):
        logger.info("The model is already in %s", root.absolute())
        return
    with staging(root) as folder:
        logger.info("Downloading into %s", root.absolute())
        hub, parts = Hub(folder / "hub"), folder / "parts"
        parts.mkdir()
        sources = fetch(wanted, hub, parts, settings.trusts_remote_code)
        logger.info("Checking that it loads and embeds without network")
        answer = _finish(settings, wanted.family, folder, sources)
        (parts / "trust_remote_code").write_text(settings.trust_remote_code)
        write_record(parts, request, hub.commits)
        # The first part of a layout is what a start looks for.
        install(parts, root, [RECORD, "trust_remote_code", *reversed(LAYOUTS[wanted.family])])
    told = f"{answer['family']}, {answer['dimensions']} dimensions"
    logger.info("The model is in %s: %s", root.absolute(), told)


def _refuse_other_family(root: Path, family: Family) -> None:
    for other, (first, *_) in LAYOUTS.items():
        if other != family and (root / first).exists():
            raise DownloadError(
                f"{root.absolute()} already holds another family, {other}: "
                "empty it, or point MODELS_DIR elsewhere"
            )


def _finish(
    settings: DownloadSettings, family: Family, folder: Path, sources: Mapping[str, Path]
) -> dict[str, Any]:
    job = {
        "family": family,
        "folder": str((folder / "parts").absolute()),
        "sources": {part: str(path.absolute()) for part, path in sources.items()},
        "scratch": str((folder / "hub").absolute()),
        "trust": settings.trusts_remote_code,
    }
    process = subprocess.run(
        [sys.executable, "-m", "inference.backends.saving"],
        cwd=Path(__file__).resolve().parent,
        env=settings.environment_of_check(folder.absolute()),
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
    )
    return _answer_of(process)


def _answer_of(process: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    if process.returncode != 0:
        end = process.stderr.strip().rpartition("\n")[2] or "is there enough memory?"
        raise DownloadError(f"the check of the model ended with {process.returncode}: {end}")
    answer: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    if "error" in answer:
        error = Exception(answer["error"])
        if "trust_remote_code" in answer["error"]:  # as every library calls it
            raise DownloadError(
                "the model brings Python code of its own, which runs with TRUST_REMOTE_CODE=1 only"
            )
        raise DownloadError(f"what was fetched does not work: {disk_fault(error) or why(error)}")
    return answer


def convert(settings: DownloadSettings) -> None:
    """Convert the model in the model folder for the runtime, so that no start needs to.

    One that cannot be converted is told of and stays as it is: torch will serve it.

    Raises:
        ModelFolderError: there is no model.
        ConfigurationError: a setting of the service has a value that does not fit.
    """
    service = read(Settings)
    if service.runtime != "openvino":
        return
    from inference.backends.conversion import converted

    folder = detect(settings.models_dir or Path("./models"))
    trust = trusts_remote_code(folder.trust_remote_code, settings.trusts_remote_code)
    options = BackendOptions(
        text_mode=service.text_mode,
        trust_remote_code=trust,
        cache_dir=service.runtime_cache_dir,
    )
    forbid_hub_access()
    try:
        converted(folder, options)
    except ConversionError as error:
        logger.warning("Not converted for OpenVINO, so torch will serve it, slower: %s", error)


def of_tag(settings: DownloadSettings, tag: str) -> DownloadSettings:
    """Let a tag of the catalogue name the model, in place of the environment.

    Raises:
        DownloadError: there is no such tag, or it is planned only.
    """
    model = catalogue.find(tag)
    ends = ("_name", "_pretrained", "_type")
    names = {field: "" for field in DownloadSettings.model_fields if field.endswith(ends)}
    names |= {name.lower(): value for name, value in model.variables.items()}
    root = settings.models_dir or Path("models") / tag
    return settings.model_copy(update={**names, "models_dir": root})


def main(arguments: Sequence[str] | None = None) -> None:
    """Download the model that was named; exit with 1 and one sentence where that fails."""
    parser = argparse.ArgumentParser(
        description="Fetch the model that the environment names into ./models (MODELS_DIR)."
    )
    parser.add_argument(
        "--model", metavar="TAG", help="a tag of catalogue.json instead, into ./models/TAG"
    )
    parser.add_argument(
        "--convert",
        action="store_true",
        help="fetch nothing: prepare the model that is there already for the CPU's runtime",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line for each request
    try:
        settings = read(DownloadSettings)
        settings = of_tag(settings, options.model) if options.model else settings
        if not options.convert:
            download(settings)
        convert(settings)
    except StartupError as error:
        sys.exit(f"Fatal: {error}")
    except KeyboardInterrupt:
        sys.exit("Fatal: interrupted; nothing half-done is left in the model folder")


if __name__ == "__main__":
    main()

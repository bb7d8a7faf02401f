"""Plans a download from the environment variables, and downloads the files of the plan.

This module knows which files a family needs, and where the family looks for them offline. For
families that are served from the hub's files, it also writes the layout.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from backends.folder import Family
from backends.json_files import read_json, read_optional_json
from backends.text_folder import is_reranker, why_no_encoder
from config import DownloadSettings
from errors import DownloadError
from fetch.hub import Hub, Snapshot, Wanted, as_hub_cache, model_files, small_files, with_code

_OPENAI_PREFIXES = ("openai/", "facebook/metaclip")
_ALWAYS_IN_A_HUB_CACHE = ("model2vec", "t5")  # by model type, as in the reference


@dataclass(frozen=True)
class Plan:
    """The plan of a download: a family, its models and its settings.

    Attributes:
        family: the model family, which sets the layout.
        wanted: part of the layout -> model to download.
        pretrained: OpenCLIP's pretrained tag; its checkpoint is looked up later.
        markers: for a text model, file name -> content of the files that set its preprocessing.
        as_hub_cache: for a text model, whether it is kept as a hub cache, whatever its type.
    """

    family: Family
    wanted: dict[str, Wanted]
    pretrained: str = ""
    markers: Mapping[str, str] = field(default_factory=dict)
    as_hub_cache: bool = False

    def request(self, trust_remote_code: str) -> dict[str, str]:
        """Return the plan as strings, to compare with the plan of a later run."""
        models = {w.variable: f"{w.name}@{w.revision or ''}" for w in self.wanted.values()}
        return {
            **models,
            "pretrained": self.pretrained,
            **self.markers,
            "as_hub_cache": str(self.as_hub_cache),
            "trust_remote_code": trust_remote_code,
        }


def plan(settings: DownloadSettings) -> Plan:
    """Make a plan: choose the family from the variables, in the reference's order of precedence.

    Raises:
        DownloadError: a variable is missing or unsupported.
    """
    if name := settings.colpali_engine_model_name:
        revision = settings.colpali_engine_model_revision
        return Plan("modernvbert", {"model": Wanted(name, "COLPALI_ENGINE_MODEL_NAME", revision)})
    if name := settings.siglip_model_name:
        wanted = Wanted(name, "SIGLIP_MODEL_NAME", settings.siglip_model_revision)
        return Plan("siglip", {"model": wanted})
    if (name := settings.open_clip_model_name) and settings.open_clip_pretrained:
        wanted = Wanted(name, "OPEN_CLIP_MODEL_NAME", settings.open_clip_revision)
        return Plan("openclip", {"model": wanted}, settings.open_clip_pretrained)
    if name := settings.qwen_engine_model_name:
        revision = settings.qwen_engine_model_revision
        return Plan("qwen3_vl", {"model": Wanted(name, "QWEN_ENGINE_MODEL_NAME", revision)})
    if settings.model_name and not (settings.clip_model_name or settings.text_model_name):
        return _plan_texts(settings)
    return _plan_pair(settings)


def _plan_texts(settings: DownloadSettings) -> Plan:
    wanted = {"model": Wanted(settings.model_name, "MODEL_NAME", settings.model_revision)}
    if settings.onnx_runtime:
        return Plan("text", wanted, markers={"onnx_runtime": "true"})
    prefixes = str(settings.use_query_passage_prefixes).lower()
    return Plan(
        "text",
        wanted,
        markers={"use_query_passage_prefixes": prefixes},
        as_hub_cache=settings.use_sentence_transformers_vectorizer,
    )


def _plan_pair(settings: DownloadSettings) -> Plan:
    for name in ("TEXT_MODEL_NAME", "CLIP_MODEL_NAME"):
        if not getattr(settings, name.lower()):
            raise DownloadError(
                f"{name} is required, or MODEL_NAME for a text model; docs/models.md has others"
            )
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
            f"CLIP_MODEL_NAME={clip} is an OpenAI CLIP, which reads texts too: "
            f"TEXT_MODEL_NAME={text} must be equal to it"
        )
    wanted = Wanted(clip, "CLIP_MODEL_NAME", revision or settings.text_model_revision)
    return Plan("openai", {"model": wanted})


def fetch_model(wanted: Plan, hub: Hub, folder: Path, trust: bool) -> dict[str, Path]:
    """Download the models of a plan; write hub caches, which some families use, to the layout.

    Returns:
        For each part of the layout that the layout job must still save: its downloaded files.

    Raises:
        DownloadError: a model is unknown, or the hub cannot be reached.
    """
    if wanted.family == "openclip":
        _fetch_openclip(wanted, hub, folder / "openclip")
        return {}
    if wanted.family == "modernvbert":
        _fetch_modernvbert(wanted.wanted["model"], hub, folder)
        return {}
    if wanted.family == "qwen3_vl":
        _fetch_qwen3_vl(wanted.wanted["model"], hub, folder)
        return {}
    choose = with_code(model_files) if trust else model_files
    models = {(model.name, model.revision): model for model in wanted.wanted.values()}
    fetched = {key: hub.fetch(model, choose) for key, model in models.items()}
    snapshots = {p: fetched[model.name, model.revision] for p, model in wanted.wanted.items()}
    if trust:
        for snapshot in snapshots.values():
            hub.fetch_borrowed_code(snapshot)
    if wanted.family == "text":
        return _lay_out_texts(wanted, snapshots["model"], folder / "model")
    if wanted.family == "siglip":
        as_hub_cache(snapshots["model"], _list_small_files(snapshots["model"]), folder / "siglip")
        (folder / "model_name").write_text(wanted.wanted["model"].name)
    return {part: snapshot.path for part, snapshot in snapshots.items()}


def _lay_out_texts(wanted: Plan, snapshot: Snapshot, folder: Path) -> dict[str, Path]:
    """Write a sentence-transformers model as a hub cache; return other models' folders by part."""
    folder.mkdir()
    config = read_optional_json(snapshot.path / "config.json")
    if is_reranker(config):  # variables for embedding models do not apply
        return {"model": snapshot.path}
    for name, content in wanted.markers.items():
        (folder / name).write_text(content)
    is_kept = wanted.as_hub_cache or config.get("model_type") in _ALWAYS_IN_A_HUB_CACHE
    if "onnx_runtime" in wanted.markers or not is_kept:
        if reason := why_no_encoder(config, snapshot.path):
            raise DownloadError(f"{wanted.wanted['model'].name} is {reason}")
        return {"model": snapshot.path}
    files = [path for path in snapshot.path.rglob("*") if path.is_file()]
    as_hub_cache(snapshot, [str(path.relative_to(snapshot.path)) for path in files], folder)
    (folder / "model_name").write_text(snapshot.name)
    (folder / "model_config").write_text(json.dumps(config))
    return {}


def _list_small_files(snapshot: Snapshot) -> list[str]:
    return small_files([path.name for path in snapshot.path.iterdir() if path.is_file()])


def _fetch_modernvbert(model: Wanted, hub: Hub, folder: Path) -> None:
    """Write two hub caches: the model with its towers' configs, and the processor."""
    networks, processors = folder / "colpali_engine_model", folder / "colpali_engine_processor"
    snapshot = hub.fetch(model, model_files)
    config = read_json(snapshot.path / "config.json", dict)
    small = _list_small_files(snapshot)
    as_hub_cache(snapshot, small, processors)
    files = [path.name for path in snapshot.path.iterdir() if path.is_file()]
    as_hub_cache(
        snapshot, [name for name in files if name == "config.json" or name not in small], networks
    )
    for tower in ("text", "vision"):
        if name := config.get(f"{tower}_config", {}).get(f"{tower}_model_name"):
            wanted = Wanted(name, f"{tower} tower of {model.name}")
            as_hub_cache(hub.fetch(wanted, _only_config), ["config.json"], networks)
    description = {
        "model_name": model.name,
        "cache_dir": "./models/colpali_engine_model",
        "cache_dir_processor": "./models/colpali_engine_processor",
        "model_config": config,
    }
    (networks / "config.json").write_text(json.dumps(description))
    (folder / "model_name").write_text(model.name)


def _fetch_qwen3_vl(model: Wanted, hub: Hub, folder: Path) -> None:
    """Write one hub cache with all files; the reference keeps some files in the default cache."""
    snapshot = hub.fetch(model, _with_template)
    files = [path.name for path in snapshot.path.iterdir() if path.is_file()]
    as_hub_cache(snapshot, files, folder / "qwen3")
    config = (snapshot.path / "config.json").read_text("utf-8")
    (folder / "qwen3" / "config.json").write_text(config)
    (folder / "model_name").write_text(model.name)


def _with_template(files: Sequence[str]) -> list[str]:
    beside = [name for name in model_files(files) if "/" not in name]
    return beside + [name for name in files if name == "chat_template.jinja"]


def _only_config(files: Sequence[str]) -> list[str]:
    if "config.json" not in files:
        raise DownloadError("holds no config.json")
    return ["config.json"]


def _fetch_openclip(wanted: Plan, hub: Hub, folder: Path) -> None:
    import open_clip

    model = wanted.wanted["model"]
    check_pair(model.name, wanted.pretrained, open_clip.list_pretrained())
    entry = open_clip.get_pretrained_cfg(model.name, wanted.pretrained)["hf_hub"]
    repository, _, file = entry.rpartition("/")  # "org/name/file" or "org/name/"
    checkpoint = Wanted(repository, model.variable, model.revision)
    snapshot = hub.fetch(checkpoint, lambda files: _checkpoint(file, files))
    as_hub_cache(snapshot, [path.name for path in snapshot.path.iterdir()], folder)
    architecture = open_clip.get_model_config(model.name)
    text = architecture["text_cfg"]
    for tower in sorted({text.get("hf_model_name"), text.get("hf_tokenizer_name")} - {None}):
        revision = model.revision if tower == repository else None
        snapshot = hub.fetch(Wanted(tower, f"text tower of {model.name}", revision), small_files)
        as_hub_cache(snapshot, _list_small_files(snapshot), folder)
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
    """Check that open_clip knows the pretrained tag for the architecture.

    Raises:
        DownloadError: the pair is unknown; the message has known tags or similar pairs.
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

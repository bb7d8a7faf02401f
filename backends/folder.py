"""The layouts of the model folder: detects the model family, and finds each part of the layout.

This module reads names and small text files only, and no weights.

Source of the layouts and of their order: the reference container's `download.py` and `clip.py`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from backends.hub_cache import default_hub_cache, hub_snapshot, read_marker
from backends.model import Weights
from errors import ModelFolderError, StartupError, describe_error

logger = logging.getLogger(__name__)

T = TypeVar("T")

Family = Literal[
    "openai",
    "openclip",
    "siglip",
    "modernvbert",
    "qwen3_vl",
    "sentence_transformers",
    "text",
    "converted",
]

# Weight type -> version of the `model.json` format. Older versions of this code refuse version 2,
# as they would read int8 weights as float32. Raise the version when the format changes
# incompatibly.
FORMATS: dict[Weights, int] = {"float32": 1, "int8": 2}
DESCRIPTION = "model.json"  # a folder with this file is a converted model
RECORD = "download.json"  # the downloaded models and their commits
CONVERSIONS = "converted"  # the folder of converted models inside a model folder


@dataclass(frozen=True)
class Layout:
    """The layout of a family's model folder.

    Attributes:
        parts: names of the folders or files of the layout; the first name identifies the family.
        module: name of the module in `families/` that loads the family; it is imported when needed.
            None for converted models.
    """

    parts: tuple[str, ...]
    module: str | None


# The families, in the order in which the reference looks for them.
LAYOUTS: dict[Family, Layout] = {
    "openai": Layout(("openai_clip", "openai_clip_processor"), "hf_clip"),
    "openclip": Layout(("openclip",), "openclip"),
    "siglip": Layout(("siglip", "model_name"), "siglip"),
    "modernvbert": Layout(
        ("colpali_engine_model", "colpali_engine_processor", "model_name"), "modernvbert"
    ),
    "qwen3_vl": Layout(("qwen3", "model_name"), "qwen3_vl"),
    "sentence_transformers": Layout(("clip", "text"), "sentence_transformer"),
    "text": Layout(("model",), "text"),  # the reference's text container: see `text_folder.py`
    "converted": Layout((DESCRIPTION,), None),  # a converted model, without the original
}
# Files of Qwen3-VL besides the weights: required files, and optional files.
PROCESSOR_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"),
    *("chat_template.jinja", "chat_template.json", "vocab.json", "merges.txt"),
    *("added_tokens.json", "special_tokens_map.json"),
)
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")  # safe formats first

# The first bytes of a Git LFS pointer file, and its maximum size. See
# https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_POINTER, _LARGEST_POINTER = b"version https://git-lfs.github.com/spec/", 1024
_READ_BY_FAMILIES = (".json", ".txt", ".model", ".xml")  # besides weights
_OTHER_RUNTIMES = ("onnx", "openvino", "coreml")  # folders of hub repositories that are not used


class ModelName(NamedTuple):
    """A model's name, and the commit that was downloaded; empty if unknown."""

    name: str
    revision: str = ""


@dataclass(frozen=True)
class ModelFolder:
    """A complete model folder of a known family."""

    root: Path
    family: Family

    def part(self, name: str) -> Path:
        """Return the path of one part, such as `openai_clip`."""
        return self.root / name

    @property
    def hub_name(self) -> str:
        """The model's name on the hub; SigLIP, ModernVBERT and Qwen3-VL folders hold one."""
        return (self.root / "model_name").read_text(encoding="utf-8").strip()

    @property
    def trust_remote_code(self) -> str | None:
        """The raw text of the file `trust_remote_code`; None if there is no such file."""
        return self._mark("trust_remote_code")

    @property
    def prefixes(self) -> bool | None:
        """The value of the file `use_query_passage_prefixes`; None if there is no such file."""
        mark = self._mark("use_query_passage_prefixes")
        return None if mark is None else mark == "true"  # else false, as in the reference

    def _mark(self, name: str) -> str | None:
        # In the model folder, or inside `model/` as in the text container.
        return read_marker(self.root / name) or read_marker(self.root / "model" / name)

    @property
    def name(self) -> ModelName:
        """The model's name: from the download record, else a hub cache, else the folder's name."""
        if name := _fetched(self.root / RECORD):
            return name
        if self.is_demo:
            return ModelName("demo")
        return ModelName(self._mark("model_name") or self.root.resolve().name)

    @property
    def processors(self) -> Path | None:
        """The folder of Qwen3-VL's tokenizer, chat template and image processor; None if missing.

        They are in the model folder, or in the hub's default cache, where the reference container
        stores them.
        """
        for cache in (self.part("qwen3"), default_hub_cache()):
            snapshot = hub_snapshot(cache, self.hub_name)
            if snapshot and all((snapshot / name).is_file() for name in PROCESSOR_FILES[:3]):
                return snapshot
        return None

    @property
    def is_demo(self) -> bool:
        """Whether this is the demo model of this project."""
        return (self.root / "demo.json").is_file()


def detect(root: Path) -> ModelFolder:
    """Detect the family of a model folder.

    Without the original model, a converted model is used: `root` itself, or a folder in
    `converted/`.

    Raises:
        ModelFolderError: the folder has no known layout, or a part of the layout is missing.
    """
    found = [family for family, one in LAYOUTS.items() if (root / one.parts[0]).is_dir()]
    if not found and lone_conversions(root):
        _refuse_pointers(lone_conversions(root))
        return ModelFolder(root, "converted")
    if not found:
        raise ModelFolderError(_nothing_found(root))
    if len(found) > 1:
        logger.warning("%s holds %s; %s is used", root, " and ".join(found), found[0])
    family = found[0]
    first, *_ = parts = LAYOUTS[family].parts
    missing = [part for part in parts if not (root / part).exists()]
    if missing:
        raise ModelFolderError(
            f"{root.absolute()} holds an incomplete {family} model: {' and '.join(missing)} is "
            f"missing beside {first}"
        )
    _refuse_pointers([root / part for part in parts])
    return ModelFolder(root, family)


def _refuse_pointers(places: Sequence[Path]) -> None:
    """Check that no file is a Git LFS pointer, which stands for a file that was not downloaded.

    Raises:
        ModelFolderError: a file of the model is a pointer.
    """
    for place in places:
        for folder, folders, names in os.walk(place, followlinks=True):
            folders[:] = [name for name in folders if name not in _OTHER_RUNTIMES]
            for name in sorted(names):
                path = Path(folder, name)
                if _is_pointer(path) and not _is_spare(path):
                    raise ModelFolderError(
                        f"{path.absolute()} is a pointer of Git LFS and not the file itself: run "
                        "`git lfs pull` in the clone that it comes from, or copy the file here"
                    )


def _is_pointer(path: Path) -> bool:
    try:
        if path.stat().st_size > _LARGEST_POINTER:
            return False
        with path.open("rb") as file:
            return file.read(len(_POINTER)) == _POINTER
    except OSError:  # the libraries cannot read it either
        return False


def _is_spare(path: Path) -> bool:
    """Return whether a file is not used, such as a pickle if there are safetensors too."""
    safe, *others = _WEIGHTS
    if path.match(safe) or path.suffix in _READ_BY_FAMILIES:
        return False
    is_weights = any(path.match(pattern) for pattern in (*others, "*.onnx"))
    return not is_weights or any(not _is_pointer(other) for other in path.parent.glob(safe))


def _fetched(record: Path) -> ModelName | None:
    try:
        content = json.loads(record.read_text("utf-8"))
        request, commits = content["request"], content["commits"]
        asked = [request[key].partition("@")[0] for key in request if key.endswith("MODEL_NAME")]
        name = "-".join(filter(None, [*dict.fromkeys(asked), request["pretrained"]]))
        return ModelName(name, next(iter(commits.values()), "")) if name else None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None  # missing, or not written by this project


def lone_conversions(root: Path) -> list[Path]:
    """Return converted models without the original: the folder itself, or its subfolders."""
    return [root] if _is_readable(root / DESCRIPTION) else conversions(root / CONVERSIONS)


def conversions(place: Path) -> list[Path]:
    """Return the subfolders with a converted model whose format this version can read."""
    return [path.parent for path in sorted(place.glob(f"*/{DESCRIPTION}")) if _is_readable(path)]


def _is_readable(description: Path) -> bool:
    try:
        content = json.loads(description.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") in FORMATS.values()


def loaded(folder: ModelFolder, kind: str, load: Callable[[], T]) -> T:
    """Call `load` for the model of a folder, and turn its errors into a ModelFolderError.

    Raises:
        ModelFolderError: the folder's content cannot be loaded.
        StartupError: `load` raised it; it is passed on.
    """
    try:
        return load()
    except StartupError:
        raise
    except Exception as error:
        model = f"The {kind} model in {folder.root.absolute()}"
        raise ModelFolderError(f"{model} cannot be loaded: {describe_error(error)}") from error


def find_weights(*folders: Path) -> Path | None:
    """Return the first weight file in the given folders, safetensors before pickles."""
    return next(_weights(folders), None)


def _weights(folders: tuple[Path, ...]) -> Iterator[Path]:
    for pattern in _WEIGHTS:
        for folder in folders:
            yield from sorted(folder.glob(pattern))


def _nothing_found(root: Path) -> str:
    if (root / DESCRIPTION).is_file() or any((root / CONVERSIONS).glob(f"*/{DESCRIPTION}")):
        return (
            f"{root.absolute()} holds a converted model in a form that this version does not read, "
            "and not the original: put the original back and run download.py --convert"
        )
    if not root.is_dir():
        return f"MODELS_DIR: there is no folder {root.absolute()}"
    if (root / "config.json").is_file():
        return (
            f"No model in {root.absolute()}, but the folder itself looks like one: put it into a "
            "folder `model` there if it reads texts alone, or see docs/models.md for the names of "
            "others"
        )
    expected = "; ".join(" + ".join(one.parts) for one in LAYOUTS.values())
    return (
        f"No model in {root.absolute()}: looked there for {expected}. Mount or COPY a model "
        "folder, run download.py, or point MODELS_DIR to one"
    )

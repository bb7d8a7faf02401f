"""Reads the configuration of the OpenCLIP model in a model folder, and finds its files.

See https://github.com/mlfoundations/open_clip: the `model_cfg` of an architecture, and the
`preprocess_cfg` with which its weights were trained.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import open_clip
from open_clip.transform import PreprocessCfg

from backends.folder import find_weights
from backends.hub_cache import beside_or_cached, hub_snapshots
from backends.json_files import read_optional_json
from errors import ModelFolderError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenClipConfig:
    """The configuration of the model in `openclip/`.

    Attributes:
        architecture: open_clip's `model_cfg`, with hub names of the text tower replaced by paths.
        preprocess: open_clip's `preprocess_cfg`.
        weights: path of the checkpoint.
        reference_config: `config.json` in the form of the reference's `GET /meta`.
    """

    architecture: dict[str, Any]
    preprocess: dict[str, Any]
    weights: Path
    reference_config: dict[str, Any]


def read_openclip_config(path: Path) -> OpenClipConfig:
    """Read the configuration in `openclip/`.

    Raises:
        ModelFolderError: the architecture is unknown, or a file of the model is missing.
    """
    own = read_optional_json(path / "config.json")
    published = read_optional_json(path / "open_clip_config.json")
    name, tag = own.get("model_name", ""), own.get("pretrained", "")
    architecture = (
        published.get("model_cfg") or own.get("model_config") or open_clip.get_model_config(name)
    )
    if not architecture:
        raise ModelFolderError(
            f"{path.absolute()} holds a model of unknown architecture: open_clip does not know the "
            f"name {name!r}, and neither config.json (model_config) nor open_clip_config.json "
            "describes it"
        )
    tag_config = open_clip.get_pretrained_cfg(name, tag) or {}
    _warn_of_other_activation(name, tag, tag_config, architecture)
    known = asdict(PreprocessCfg()).keys()
    preprocess = published.get("preprocess_cfg") or {
        key: value for key, value in tag_config.items() if key in known
    }
    if not preprocess:
        logger.warning(
            "%s does not configure how images are preprocessed (preprocess_cfg in "
            "open_clip_config.json), so open_clip's defaults are used: %s",
            path.absolute(),
            PreprocessCfg(),
        )
    architecture = deepcopy(architecture)
    text = architecture["text_cfg"]
    for key in ("hf_model_name", "hf_tokenizer_name"):
        if text.get(key):
            text[key] = str(_on_disk(text[key], path))
    return OpenClipConfig(
        architecture=architecture,
        preprocess=preprocess,
        weights=_find_weights(path, tag),
        reference_config=own or published,
    )


def _warn_of_other_activation(
    name: str, tag: str, trained: Mapping[str, Any], architecture: Mapping[str, Any]
) -> None:
    """Log a warning if either the trained weights or the architecture has QuickGELU, not both."""
    with_quick = bool(trained.get("quick_gelu"))
    if not trained or with_quick == bool(architecture.get("quick_gelu")):
        return
    if with_quick:
        how, computed, better = "with", "without", f"{name}-quickgelu"
    else:
        how, computed, better = "without", "with", name.removesuffix("-quickgelu")
    logger.warning(
        "The weights %s were trained %s QuickGELU, and %s computes %s: vectors will be worse. "
        "Take %s in its place",
        *(tag, how, name, computed, better),
    )


def _find_weights(path: Path, pretrained: str) -> Path:
    beside = path / Path(pretrained).name
    weights = beside if beside.is_file() else find_weights(path, *hub_snapshots(path))
    if weights is None:
        raise ModelFolderError(
            f"{path.absolute()} holds no weights: neither a *.safetensors, *.bin or *.pt file "
            "nor a hub cache (models--ORG--NAME) with one"
        )
    return weights


def _on_disk(hub_name: str, path: Path) -> Path:
    """Return the folder of a text tower or of its tokenizer, by its name on the hub."""
    found = beside_or_cached(path, hub_name)
    if found is None:
        raise ModelFolderError(
            f"{path.absolute()} lacks the config and the tokenizer of its text tower, {hub_name}: "
            "make the folder again with this project's download.py, or put them into "
            f"{path / Path(hub_name).name}"
        )
    return found

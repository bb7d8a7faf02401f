"""The layout job: saves downloaded files in a family's layout and checks it, in a separate process.

    python -m fetch.layouts < job.json      (see `jobs.py`)

The check loads the layout as the service does, and computes a vector or a score. The process works
offline and without a token, like the service at startup.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from backends.embed import embed, score
from backends.folder import Family, detect
from backends.jobs import Answer, subprocess_main
from backends.json_files import read_json, read_optional_json
from backends.model import ModelOptions, Pair, Rows, Tower
from backends.replicas import load_replica
from backends.text_folder import is_reranker
from errors import DownloadError

_TOKENIZER_FILES = (
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("*.model", "tokenization_*.py", "config_sentence_transformers.json"),
)

Sources: TypeAlias = Mapping[str, Path]  # part of the layout -> folder with its downloaded files


@dataclass(frozen=True)
class LayoutJob:
    """The parameters of making a layout.

    Attributes:
        family: the family, which sets the layout.
        folder: the folder to write the layout to.
        sources: the downloaded files, by part of the layout.
        scratch: the folder of the download; it is deleted before the check, so that the layout
            cannot depend on it.
        trust: whether the model may run Python code of its own.
    """

    family: Family
    folder: str
    sources: dict[str, str]
    scratch: str
    trust: bool


def make_layout(job: LayoutJob) -> Answer:
    """Save and check the layout; return its family and a description of its vectors.

    Raises:
        DownloadError: the model is of another family, or needs TRUST_REMOTE_CODE.
        ServiceError: the model cannot be loaded, or does not work.
    """
    from backends.families.checkpoints import checkpoints_noted

    folder = Path(job.folder)
    sources = {part: Path(path) for part, path in job.sources.items()}
    try:
        with checkpoints_noted():
            _SAVE[job.family](sources, folder, job.trust)
        shutil.rmtree(job.scratch, ignore_errors=True)
        return check_layout(folder, job.trust)
    except Exception as error:
        if "trust_remote_code" in str(error):  # every library uses this name
            raise DownloadError(
                "the model brings Python code of its own, which runs with TRUST_REMOTE_CODE=1 only"
            ) from error
        raise


def check_layout(root: Path, trust: bool) -> Answer:
    """Load a model folder as the service does, and embed a text and an image, or score a pair.

    An image is embedded only if the model reads images.

    Raises:
        ServiceError: the model cannot be loaded, or its vectors or scores are not usable.
    """
    model = load_replica(detect(root), ModelOptions(trust_remote_code=trust, in_stages=True))
    if "pair" in model.towers:
        score(model, [Pair("a query", "a document")])
        return {"family": model.info.family, "gives": "scores of pairs"}
    texts = embed(model.towers["text"], ["an image"])
    if images := model.towers.get("image"):
        _check_dimensions(texts, images)
    return {"family": model.info.family, "gives": f"{texts.shape[1]} dimensions"}


def _check_dimensions(texts: Rows, tower: Tower) -> None:
    from PIL import Image

    images = embed(tower, [Image.new("RGB", (64, 16))])
    if texts.shape != images.shape:
        raise DownloadError(
            f"the two models do not belong together: texts get {texts.shape[1]} dimensions, "
            f"images {images.shape[1]}"
        )


def _save_openai(sources: Sources, folder: Path, _trust: bool) -> None:
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel, MetaClip2Model

    source = sources["model"]
    kind = _choose_class(source, {"clip": CLIPModel, "metaclip_2": MetaClip2Model})
    _load(kind, source, dtype="auto").save_pretrained(folder / "openai_clip")
    for processor in (AutoTokenizer, CLIPImageProcessor):
        _load(processor, source).save_pretrained(folder / "openai_clip_processor")


def _save_siglip(sources: Sources, folder: Path, _trust: bool) -> None:
    from transformers import Siglip2Model, SiglipModel

    kind = _choose_class(sources["model"], {"siglip": SiglipModel, "siglip2": Siglip2Model})
    _load(kind, sources["model"], dtype="auto").save_pretrained(folder / "siglip")


def _save_sentence_transformers(sources: Sources, folder: Path, trust: bool) -> None:
    from sentence_transformers import SentenceTransformer

    for part, source in sources.items():
        if part == "text" and source == sources["clip"]:
            shutil.copytree(folder / "clip", folder / "text", copy_function=_link)
        else:
            model = SentenceTransformer(str(source), device="cpu", trust_remote_code=trust)
            model.save(str(folder / part), create_model_card=False)


def _save_text(sources: Sources, folder: Path, trust: bool) -> None:
    if "model" not in sources:  # the model stays in a hub cache
        return
    source, target = sources["model"], folder / "model"
    config = read_json(source / "config.json", dict)
    options = {"dtype": "auto", "trust_remote_code": trust, "output_loading_info": True}
    model, loading = _load(_text_class(config), source, **options)
    if is_reranker(config) and (missing := sorted(loading["missing_keys"])):
        raise DownloadError(
            f"its weights lack {', '.join(missing)}, without which scores mean nothing"
        )
    model.save_pretrained(target)
    # The tokenizer's files are copied, as saving it with its class might change it.
    for pattern in _TOKENIZER_FILES:
        for file in source.glob(pattern):
            shutil.copyfile(file, target / file.name)


def _text_class(config: Mapping[str, Any]) -> Any:
    """Return the class that loads a text model; `AutoModel` loads only DPR's question encoder."""
    import transformers

    if is_reranker(config):
        return transformers.AutoModelForSequenceClassification
    is_dpr = config.get("model_type") == "dpr"
    return getattr(transformers, config["architectures"][0] if is_dpr else "AutoModel")


def _save_nothing(_sources: Sources, _folder: Path, _trust: bool) -> None:
    """Do nothing, for families that are served from the hub's files."""


_SAVE: dict[Family, Callable[[Sources, Path, bool], None]] = {
    "openai": _save_openai,
    "openclip": _save_nothing,
    "siglip": _save_siglip,
    "modernvbert": _save_nothing,
    "qwen3_vl": _save_nothing,
    "sentence_transformers": _save_sentence_transformers,
    "text": _save_text,
}


def _load(cls: Any, source: Path, **options: object) -> Any:
    return cls.from_pretrained(source, local_files_only=True, **options)


def _choose_class(source: Path, classes: Mapping[str, Any]) -> Any:
    model_type = read_optional_json(source / "config.json").get("model_type", "")
    if model_type not in classes:
        raise DownloadError(
            f"it is a model of type {model_type or 'unknown'}, where one of type "
            f"{' or '.join(classes)} is needed"
        )
    return classes[model_type]


def _link(source: str, target: str) -> None:
    """Hard-link a file, or copy it if the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


if __name__ == "__main__":
    subprocess_main(lambda described: make_layout(LayoutJob(**described)))

"""A process of its own, at build time: the hub's files -> the layout on disk, and the proof.

    python -m fetch.layouts < job.json      (see `jobs.py`)

The proof loads the layout as the service will and embeds with it. It is a process of its own so
that it starts without network and without token, and sees nothing but what a start will see.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from backends.embed import embed, score
from backends.folder import Family, detect
from backends.jobs import Answer, subprocess_main
from backends.load import load_replica
from backends.model import ModelOptions, Pair, Rows, Tower
from backends.text_folder import is_reranker
from errors import DownloadError

_TOKENIZER_FILES = (
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("*.model", "tokenization_*.py", "config_sentence_transformers.json"),
)

Sources: TypeAlias = Mapping[str, Path]  # a family's part -> the hub's files for it


@dataclass(frozen=True)
class Job:
    """What is to be done.

    Attributes:
        family: the layout.
        folder: where the layout belongs.
        sources: the hub's files, by part.
        scratch: deleted between saving and proving, so that nothing there is relied on.
        trust: whether the model may run Python code of its own.
    """

    family: Family
    folder: str
    sources: dict[str, str]
    scratch: str
    trust: bool


def do(job: Job) -> Answer:
    """Save, and prove; return the family of what is there now, and what it gives.

    Raises:
        DownloadError: it is not the kind of model that it was taken for, or not to be trusted.
        ServiceError: it cannot be loaded, or does not work.
    """
    from backends.families.checkpoints import checkpoints_noted

    folder = Path(job.folder)
    sources = {part: Path(path) for part, path in job.sources.items()}
    try:
        with checkpoints_noted():
            _SAVE[job.family](sources, folder, job.trust)
        shutil.rmtree(job.scratch, ignore_errors=True)
        return prove(folder, job.trust)
    except Exception as error:
        if "trust_remote_code" in str(error):  # as every library calls it
            raise DownloadError(
                "the model brings Python code of its own, which runs with TRUST_REMOTE_CODE=1 only"
            ) from error
        raise


def prove(root: Path, trust: bool) -> Answer:
    """Load a model folder as the service will, and embed a text, and an image if it can.

    One of pairs scores a pair.

    Raises:
        ServiceError: it cannot be loaded, or its vectors are not fit to use.
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
    kind = _kind_of(source, {"clip": CLIPModel, "metaclip_2": MetaClip2Model})
    _load(kind, source, dtype="auto").save_pretrained(folder / "openai_clip")
    for processor in (AutoTokenizer, CLIPImageProcessor):
        _load(processor, source).save_pretrained(folder / "openai_clip_processor")


def _save_siglip(sources: Sources, folder: Path, _trust: bool) -> None:
    from transformers import Siglip2Model, SiglipModel

    kind = _kind_of(sources["model"], {"siglip": SiglipModel, "siglip2": Siglip2Model})
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
    if "model" not in sources:  # it stays in its hub cache
        return
    source, target = sources["model"], folder / "model"
    config = json.loads((source / "config.json").read_text("utf-8"))
    options = {"dtype": "auto", "trust_remote_code": trust, "output_loading_info": True}
    model, loading = _load(_kind_of_texts(config), source, **options)
    if is_reranker(config) and (missing := sorted(loading["missing_keys"])):
        raise DownloadError(
            f"its weights lack {', '.join(missing)}, without which scores mean nothing"
        )
    model.save_pretrained(target)
    # As they are: saved by their class, the tokenizer might be another one.
    for pattern in _TOKENIZER_FILES:
        for file in source.glob(pattern):
            shutil.copyfile(file, target / file.name)


def _kind_of_texts(config: Mapping[str, Any]) -> Any:
    """Return what loads a model; of DPR's, `AutoModel` knows only the one of questions."""
    import transformers

    if is_reranker(config):
        return transformers.AutoModelForSequenceClassification
    is_dpr = config.get("model_type") == "dpr"
    return getattr(transformers, config["architectures"][0] if is_dpr else "AutoModel")


def _save_nothing(_sources: Sources, _folder: Path, _trust: bool) -> None:
    """OpenCLIP's, ModernVBERT's and Qwen3-VL's checkpoints are served as the hub has them."""


_SAVE: dict[Family, Callable[[Sources, Path, bool], None]] = {
    "openai": _save_openai,
    "openclip": _save_nothing,
    "siglip": _save_siglip,
    "modernvbert": _save_nothing,
    "qwen3_vl": _save_nothing,
    "sentence_transformers": _save_sentence_transformers,
    "text": _save_text,
}


def _load(kind: Any, source: Path, **options: object) -> Any:
    return kind.from_pretrained(source, local_files_only=True, **options)


def _kind_of(source: Path, kinds: Mapping[str, Any]) -> Any:
    config = source / "config.json"
    model_type = json.loads(config.read_text("utf-8")).get("model_type") if config.is_file() else ""
    if model_type not in kinds:
        raise DownloadError(
            f"it is a model of type {model_type or 'unknown'}, where one of type "
            f"{' or '.join(kinds)} is needed"
        )
    return kinds[model_type]


def _link(source: str, target: str) -> None:
    """Give a file a second name, or a copy where the file system knows no second names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


if __name__ == "__main__":
    subprocess_main(lambda described: do(Job(**described)))

"""Text models of sentence-transformers, with any network, pooling and further modules.

Source of the vectors: the reference's text container, which calls `encode_query` or
`encode_document` and normalizes the vectors.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router

from backends.families import transformers_models as hf
from backends.families.sentence_modules import load_sentence_transformer, text_tower
from backends.folder import ModelFolder
from backends.model import ModelOptions
from backends.preprocessing.loaders import Described
from backends.preprocessing.prompts import PromptedProcessor, Prompts, wants_prefixes
from backends.preprocessing.vocabulary import VOCABULARY
from backends.runtimes.torch.stages import PortableStages
from backends.runtimes.torch.towers import (
    EVERY_TEXT_MODE,
    Portable,
    TorchModel,
    TorchTower,
    describe,
    normalize,
)
from backends.text_folder import TextFolder, reference_meta
from errors import ModelFolderError


def load(folder: ModelFolder, options: ModelOptions) -> TorchModel:
    """Load the model from the hub cache in `model/`.

    Raises:
        ModelFolderError: the model's modules need more input than a text.
    """
    text = TextFolder.open(folder)
    path = text.snapshot
    model = load_sentence_transformer(path, options)
    if reason := _why_not(model):
        raise ModelFolderError(f"{path.absolute()} cannot be served: {reason}")
    info = describe(
        folder,
        options,
        family="sentence-transformers",
        dimensions=model.get_embedding_dimension() or 0,
        image_px=0,
        networks=[model],
        config=reference_meta(text.model_config),
    )
    files = path / next((module["path"] for module in text.modules[:1]), "")
    has_vocabulary = (files / VOCABULARY).is_file()
    tokenizer = hf.load_tokenizer(files, options) if has_vocabulary else None
    prompts = Prompts.from_json(model.prompts)
    plain = text_tower(model, tokenizer, normalize)
    tower = _prompted(plain, prompts, folder.prefixes, options)
    return TorchModel(replace(info, cuts=True), {"text": tower}, EVERY_TEXT_MODE)


def _why_not(model: SentenceTransformer) -> str | None:
    if any(isinstance(module, Router) for module in model):
        return "its queries and its documents have networks of their own"
    if any(not getattr(module, "include_prompt", True) for module in model) and any(
        model.prompts.values()
    ):
        return "its pooling leaves the prompt out"
    return None


def _prompted(
    plain: TorchTower, prompts: Prompts, prefixes: bool | None, options: ModelOptions
) -> TorchTower:
    def portable() -> Portable | PortableStages:
        portable = plain.portable()

        def describe_prompts(target: Path) -> Described:
            kind = {"kind": "prompts", "prefixes": prefixes, **prompts.as_json()}
            return {**kind, "of": portable.describe(target)}

        return replace(portable, describe=describe_prompts)

    has_prefixes = wants_prefixes(options, prefixes)
    texts = PromptedProcessor(plain.processor, prompts, has_prefixes)
    return TorchTower(texts, plain.module, portable)

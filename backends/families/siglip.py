"""SigLIP, SigLIP 2 with a fixed resolution, and SigLIP 2 NaFlex, as transformers implements them.

See:
    SigLIP: https://arxiv.org/abs/2303.15343; SigLIP 2: https://arxiv.org/abs/2502.14786
    https://huggingface.co/docs/transformers/model_doc/siglip2: texts are padded to 64
    tokens, without a mask, and lower-cased for SigLIP 2.

Source of the vectors: the reference's `clip.py`, which does not normalize them for this family.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import (
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipImageProcessorPil,
    SiglipModel,
)

from backends.families import naflex
from backends.families import transformers_models as hf
from backends.folder import ModelFolder
from backends.hub_cache import hub_snapshot
from backends.model import ModelOptions
from backends.preprocessing.pixels import Geometry
from backends.preprocessing.tokens import Padding, TextRecipe
from backends.runtimes.torch.towers import (
    EVERY_TEXT_MODE,
    TorchModel,
    TorchTower,
    describe,
    identity,
    place,
)
from errors import ModelFolderError

FIXED, NAFLEX = "siglip", "siglip2"  # `model_type` in `config.json`; SigLIP 2 has either
_MODELS = {FIXED: SiglipModel, NAFLEX: Siglip2Model}


def load(folder: ModelFolder, options: ModelOptions) -> TorchModel:
    """Load the model in `siglip/`; its processor is in a hub cache there or beside the weights."""
    processors = hub_snapshot(folder.part("siglip"), folder.hub_name) or folder.part("siglip")
    tokenizer = hf.load_own_tokenizer(processors, options)
    model = _load_model(folder.part("siglip"), options)
    build = _naflex_images if _is_naflex(model) else _fixed_images
    images, image_px = build(model, processors, options)
    info = describe(
        folder,
        options,
        family=_family(model, tokenizer),
        dimensions=model.config.text_config.projection_size,
        image_px=image_px,
        networks=[model],
        config=hf.full_config(model),
    )
    texts = hf.TextNetwork(model, identity)
    recipe = _recipe(model, tokenizer, options)
    return TorchModel(
        info,
        {"text": hf.text_tower(texts, tokenizer, recipe), "image": images},
        # The reference cannot serve NaFlex, so it has no text mode `reference`.
        text_modes=EVERY_TEXT_MODE if _is_naflex(model) else (options.text_mode,),
    )


def _load_model(path: Path, options: ModelOptions) -> Any:
    model_type = hf.read_config(path)["model_type"]
    if model_type not in _MODELS:
        raise ModelFolderError(
            f"{path.absolute()} holds a model of type {model_type}, where one of type "
            f"{' or '.join(_MODELS)} is needed"
        )
    return place(_MODELS[model_type].from_pretrained(path, **hf.load_options()), options)


def _fixed_images(model: Any, processors: Path, _options: ModelOptions) -> tuple[TorchTower, int]:
    processor = hf.load_image_processor(SiglipImageProcessorPil, processors)
    geometry = Geometry.from_processor(processor, "torch")
    return hf.image_tower(model, processor, geometry, identity), geometry.shorter_side_px


def _naflex_images(model: Any, processors: Path, options: ModelOptions) -> tuple[TorchTower, int]:
    processor = hf.load_image_processor(Siglip2ImageProcessorPil, processors)
    return naflex.image_tower(model, processor, options.max_num_patches), 0


def _family(model: Any, tokenizer: Any) -> str:
    if _is_naflex(model):
        return "SigLIP 2 NaFlex"
    return "SigLIP" if _is_siglip1(tokenizer) else "SigLIP 2"


def _recipe(model: Any, tokenizer: Any, options: ModelOptions) -> TextRecipe:
    # The model pools the last position and takes no mask, so padding changes the vector.
    length: int = model.config.text_config.max_position_embeddings
    if options.text_mode == "reference" and not _is_naflex(model):
        return TextRecipe("nothing", Padding("nothing", length))
    padding = Padding("full", length, tokenizer.pad_token_id)
    return TextRecipe("nothing" if _is_siglip1(tokenizer) else "lower", padding)


def _is_naflex(model: Any) -> bool:
    return bool(model.config.model_type == NAFLEX)


def _is_siglip1(tokenizer: Any) -> bool:
    return type(tokenizer).__name__.startswith("SiglipTokenizer")

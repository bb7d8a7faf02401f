"""OpenAI CLIP and MetaCLIP 2, as transformers implements them.

See:
    CLIP: https://arxiv.org/abs/2103.00020, https://huggingface.co/openai/clip-vit-base-patch32
    MetaCLIP 2: https://arxiv.org/abs/2507.22062,
    https://huggingface.co/facebook/metaclip-2-worldwide-b32-384

Source of the normalization: the reference's `clip.py` scales both towers' vectors to length 1.
"""

from __future__ import annotations

from typing import Any

from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    MetaClip2Config,
    MetaClip2Model,
)

from backends.families import transformers_models as hf
from backends.folder import ModelFolder
from backends.model import ModelOptions
from backends.preprocessing.pixels import Geometry
from backends.preprocessing.tokens import Padding, TextRecipe
from backends.runtimes.torch.towers import EVERY_TEXT_MODE, TorchModel, describe, normalize, place


def load(folder: ModelFolder, options: ModelOptions) -> TorchModel:
    """Load the model in `openai_clip/` and its processor in `openai_clip_processor/`."""
    processors = folder.part("openai_clip_processor")
    tokenizer = hf.load_own_tokenizer(processors, options)
    processor = hf.load_image_processor(CLIPImageProcessorPil, processors)
    config = hf.read_config(folder.part("openai_clip"))
    is_metaclip2 = _is_metaclip2(config, tokenizer)
    model = _load_model(folder, config, is_metaclip2, options)
    geometry = Geometry.from_processor(processor, "torch")
    info = describe(
        folder,
        options,
        family="MetaCLIP 2" if is_metaclip2 else "OpenAI CLIP",
        dimensions=model.config.projection_dim,
        image_px=geometry.shorter_side_px,
        networks=[model],
        config=hf.full_config(model),
    )
    texts = hf.TextNetwork(model, normalize)
    return TorchModel(
        info,
        {
            "text": hf.text_tower(texts, tokenizer, _recipe(model, tokenizer)),
            "image": hf.image_tower(model, processor, geometry, normalize),
        },
        text_modes=(options.text_mode,) if is_metaclip2 else EVERY_TEXT_MODE,
    )


def _recipe(model: Any, tokenizer: Any) -> TextRecipe:
    # Attention is causal, so padding after the end token changes no vector.
    longest = model.config.text_config.max_position_embeddings
    return TextRecipe("nothing", Padding("rounded", longest, tokenizer.pad_token_id))


def _is_metaclip2(config: dict[str, Any], tokenizer: Any) -> bool:
    # The reference saves MetaCLIP 2 as a plain CLIP. It is recognized by the end token id 2 with an
    # XLM tokenizer: early OpenAI configs have the end token id 2 too, but with CLIP's tokenizer.
    return config["model_type"] == "metaclip_2" or (
        config["text_config"].get("eos_token_id") == 2
        and type(tokenizer).__name__.startswith("XLMRoberta")
    )


def _load_model(
    folder: ModelFolder, config: dict[str, Any], is_metaclip2: bool, options: ModelOptions
) -> Any:
    # If the end token id is 2, transformers' CLIP pools a text at its largest token id, and
    # MetaCLIP 2 at the end token. The reference has the first behaviour, a defect (transformers PR
    # 39821).
    as_trained = is_metaclip2 and options.text_mode == "trained"
    kind, kind_config = (MetaClip2Model, MetaClip2Config) if as_trained else (CLIPModel, CLIPConfig)
    model = kind.from_pretrained(
        folder.part("openai_clip"),
        config=kind_config.from_dict({**config, "model_type": kind_config.model_type}),
        **hf.load_options(),
    )
    return place(model, options)

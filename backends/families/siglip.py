"""SigLIP and SigLIP 2 with a fixed resolution, as transformers implements them.

See:
    SigLIP: https://arxiv.org/abs/2303.15343; SigLIP 2: https://arxiv.org/abs/2502.14786
    https://huggingface.co/docs/transformers/model_doc/siglip2: texts are padded to 64
    tokens, without a mask, and lower-cased for SigLIP 2.

Source of the vectors' length: the reference's `clip.py` does not normalise this family.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, SiglipImageProcessorPil, SiglipModel

from backends.families import transformers_models as hf
from backends.folder import ModelFolder, hub_snapshot
from backends.inputs.pixels import Geometry
from backends.inputs.tokens import Padding, TextRecipe
from backends.model import ModelOptions
from backends.torch.towers import TorchModel, describe, identity, place
from errors import ModelFolderError


def load(folder: ModelFolder, options: ModelOptions) -> TorchModel:
    """Load `siglip/`, with its processor in a hub cache inside it or beside the weights."""
    processors = hub_snapshot(folder.part("siglip"), folder.hub_name) or folder.part("siglip")
    tokenizer = AutoTokenizer.from_pretrained(
        processors, local_files_only=True, trust_remote_code=options.trust_remote_code
    )
    processor = SiglipImageProcessorPil.from_pretrained(processors, local_files_only=True)
    model = _load_model(folder.part("siglip"), options)
    geometry = Geometry.of_processor(processor, "torch")
    info = describe(
        folder,
        options,
        family="SigLIP" if _is_siglip1(tokenizer) else "SigLIP 2",
        dimensions=model.config.text_config.projection_size,
        image_px=geometry.shorter_side_px,
        networks=[model],
        config=hf.full_config(model),
    )
    return hf.two_towers(
        info,
        geometry,
        hf.image_tower(model, processor, identity),
        hf.TextNetwork(model, identity),
        tokenizer,
        _recipe(model, tokenizer, options),
        text_modes=(options.text_mode,),
    )


def _load_model(path: Path, options: ModelOptions) -> Any:
    model_type = hf.read_config(path)["model_type"]
    if model_type != "siglip":
        raise ModelFolderError(
            f"{path.absolute()} holds a model of type {model_type}; this version serves SigLIP and "
            "SigLIP 2 models with a fixed resolution (type siglip), not yet the NaFlex ones"
        )
    return place(SiglipModel.from_pretrained(path, **hf.load_options()), options)


def _recipe(model: Any, tokenizer: Any, options: ModelOptions) -> TextRecipe:
    # The vector is read at the last position and there is no mask, so padding is part of a text.
    length: int = model.config.text_config.max_position_embeddings
    if options.text_mode == "reference":
        return TextRecipe("nothing", Padding("nothing", length))
    padding = Padding("full", length, tokenizer.pad_token_id)
    return TextRecipe("nothing" if _is_siglip1(tokenizer) else "lower", padding)


def _is_siglip1(tokenizer: Any) -> bool:
    return type(tokenizer).__name__.startswith("SiglipTokenizer")

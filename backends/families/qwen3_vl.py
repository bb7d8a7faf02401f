"""Qwen3-VL-Embedding: a chat model whose last hidden state is the vector of a text or an image.

See:
    Qwen3-VL-Embedding: https://arxiv.org/abs/2601.04720
    https://huggingface.co/Qwen/Qwen3-VL-Embedding-2B

Source of the prompt, the normalization and the pooling: the reference's `clip.py`, which follows
the script of the model's authors. The reference leaves the tokenizer and the chat template in the
hub's default cache, outside of the model folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Qwen2VLImageProcessorPil, Qwen3VLConfig

from backends.families import transformers_models as hf
from backends.families.chat_template import image_frame, text_frame
from backends.families.qwen3_vl_checkpoint import Checkpoint
from backends.families.qwen3_vl_network import Network
from backends.folder import ModelFolder
from backends.hub_cache import default_hub_cache
from backends.model import ModelOptions
from backends.preprocessing.blocks import Around, BlockProcessor, Blocks
from backends.preprocessing.conversation import ConversationProcessor, Frame
from backends.preprocessing.tokens import Padding, TextRecipe, Tokenize
from backends.runtimes.torch.stages import PortableStages, StagedModule
from backends.runtimes.torch.towers import EVERY_TEXT_MODE, TorchModel, TorchTower, describe
from errors import ModelFolderError

_INSTRUCTION = "Represent the user's input."
_LONGEST = 8192
_MIN_BLOCKS, _MAX_BLOCKS = 4, 1800  # per image; replaces the processor's own bounds

_TEXT_INPUTS = ("ids", "places", "last")
_IMAGE_INPUTS = ("patches", "corners", "shares", "spots", *_TEXT_INPUTS)


def load(folder: ModelFolder, options: ModelOptions) -> TorchModel:
    """Load the hub cache `qwen3/`; tokenizer and template are in it or in the default cache."""
    snapshot, processors = hf.snapshot(folder, "qwen3"), _processors(folder)
    tokenizer = hf.load_tokenizer(processors, options)
    processor = Qwen2VLImageProcessorPil.from_pretrained(processors, local_files_only=True)
    config = Qwen3VLConfig.from_pretrained(snapshot, local_files_only=True)
    network = Network(config, Checkpoint(snapshot), processor, options)
    info = describe(
        folder,
        options,
        family="Qwen3-VL-Embedding",
        dimensions=config.text_config.hidden_size,
        image_px=0,
        networks=[network.model],
        config=hf.shown_config(folder, "qwen3"),
    )
    texts, tokenize = _text_tower(network, tokenizer, processors)
    images = _image_tower(network, tokenizer, tokenize, processors, options)
    return TorchModel(info, {"text": texts, "image": images}, EVERY_TEXT_MODE)


def _processors(folder: ModelFolder) -> Path:
    if path := folder.processors:
        return path
    cache, name = folder.part("qwen3").absolute(), folder.hub_name
    raise ModelFolderError(
        f"neither {cache} nor {default_hub_cache()} holds tokenizer.json, chat_template.jinja and "
        f"preprocessor_config.json of {name}, which the reference leaves in the cache of its own "
        "home; this "
        f'fetches them: hf download {name} --include "*.json" "*.txt" "*.jinja" '
        f"--cache-dir {cache}"
    )


def _text_tower(network: Network, tokenizer: Any, processors: Path) -> tuple[TorchTower, Tokenize]:
    pad_id = tokenizer.pad_token_id or 0
    recipe = TextRecipe("nothing", Padding("rounded", _LONGEST, pad_id))
    frame = Frame(*text_frame(processors, tokenizer.special_tokens_map, _INSTRUCTION))
    tokenize = hf.tokenize_by(tokenizer, recipe)
    processor = ConversationProcessor(tokenize, recipe, frame)
    stages = network.text_stages()

    def save(folder: Path) -> dict[str, object]:
        kind = hf.save_vocabulary(tokenizer, folder)
        if kind != "tokens":
            raise ValueError(f"its vocabulary is of an unsupported kind: {kind}")
        return {"kind": "conversation", "frame": frame.as_json(), **recipe.as_json()}

    tower = TorchTower(
        processor,
        StagedModule(_TEXT_INPUTS, stages),
        lambda: PortableStages(_TEXT_INPUTS, stages, save, gives_way=False),
    )
    return tower, tokenize


def _image_tower(
    network: Network,
    tokenizer: Any,
    tokenize: Tokenize,
    processors: Path,
    options: ModelOptions,
) -> TorchTower:
    token = tokenizer.convert_ids_to_tokens(network.config.image_token_id)
    frame = image_frame(processors, tokenizer.special_tokens_map, _INSTRUCTION, token)
    before, after = (tokenize(text).ids for text in frame)
    around, blocks = Around(before, after), _blocks(network.config.vision_config)
    stages = network.image_stages(blocks, around)
    described = {"kind": "blocks", "blocks": blocks.as_json(), "around": around.as_json()}
    return TorchTower(
        BlockProcessor(blocks, around, options.max_read_pixels),
        StagedModule(_IMAGE_INPUTS, stages),
        lambda: PortableStages(_IMAGE_INPUTS, stages, lambda _folder: described, gives_way=True),
    )


def _blocks(vision: Any) -> Blocks:
    pixels = (vision.patch_size * vision.spatial_merge_size) ** 2
    return Blocks(
        patch_px=vision.patch_size,
        merged=vision.spatial_merge_size,
        positions=int(vision.num_position_embeddings**0.5),
        least_px=_MIN_BLOCKS * pixels,
        most_px=_MAX_BLOCKS * pixels,
    )

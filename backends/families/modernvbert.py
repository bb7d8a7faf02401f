"""ModernVBERT as a bi-encoder: its text network also reads image tokens of the vision network.

See:
    ModernVBERT: https://arxiv.org/abs/2510.01149, https://huggingface.co/ModernVBERT/modernvbert-embed

Source of the prompt, the pooling and the normalization: colpali-engine's `BiModernVBert` and its
processor, which the reference serves. The model's configuration names two models of the hub.
colpali-engine downloads their configurations at every startup; here they are read from the folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    Idefics3ImageProcessorPil,
    ModernVBertConfig,
    ModernVBertModel,
    SiglipVisionConfig,
)
from typing_extensions import override

from backends.families import transformers_models as hf
from backends.folder import ModelFolder, find_weights
from backends.hub_cache import hub_snapshot
from backends.model import ModelOptions
from backends.preprocessing.tiles import Prompt, TileProcessor, Tiling
from backends.preprocessing.tokens import Padding, TextRecipe
from backends.runtimes.torch.towers import (
    EVERY_TEXT_MODE,
    Normalize,
    Portable,
    TorchModel,
    TorchTower,
    describe,
    normalize,
    place,
)
from backends.weights import common_prefix
from errors import ModelFolderError

_PROMPT = "<|begin_of_text|>User:<image>Describe the image.<end_of_utterance>\nAssistant:"
_LARGEST_PX = 4096  # above it, transformers resizes once more; no known checkpoint does
_MORE = "additional_embedding.weight"  # embeddings of tokens that colpali-engine adds
# Config of the vision network of all known checkpoints; a folder that the reference made may lack
# this config.
_KNOWN_VISION = {"google/siglip2-base-patch16-512": {"image_size": 512}}


def load(folder: ModelFolder, options: ModelOptions) -> TorchModel:
    """Load the hub caches `colpali_engine_model/` and `colpali_engine_processor/`."""
    processors = hf.snapshot(folder, "colpali_engine_processor")
    tokenizer = hf.load_own_tokenizer(processors, options)
    processor = hf.load_image_processor(Idefics3ImageProcessorPil, processors)
    model = place(_load_model(folder), options)
    info = describe(
        folder,
        options,
        family="ModernVBERT",
        dimensions=model.config.text_config.hidden_size,
        image_px=0,
        networks=[model],
        config=hf.shown_config(folder, "colpali_engine_model"),
    )
    texts = TextNetwork(model)
    return TorchModel(
        info,
        {
            "text": hf.text_tower(texts, tokenizer, _recipe(model, tokenizer)),
            "image": _image_tower(model, processor, tokenizer, options),
        },
        EVERY_TEXT_MODE,
    )


def _recipe(model: Any, tokenizer: Any) -> TextRecipe:
    longest = min(model.config.text_config.max_position_embeddings, tokenizer.model_max_length)
    return TextRecipe("nothing", Padding("rounded", longest, tokenizer.pad_token_id, masked=True))


def _image_tower(model: Any, processor: Any, tokenizer: Any, options: ModelOptions) -> TorchTower:
    tiling = _tiling(processor)
    prompt = Prompt(_PROMPT, model.image_seq_len, tokenizer.pad_token_id)
    tiles = TileProcessor(
        tiling, prompt, lambda text: tokenizer(text)["input_ids"], options.max_image_tiles
    )
    network = TileNetwork(model, processor).to(model.device)
    return TorchTower(tiles, network, lambda: _portable(network, tiling, prompt, tokenizer))


def _tiling(processor: Any) -> Tiling:
    steps = ("do_resize", "do_rescale", "do_normalize", "do_image_splitting")
    longest, tile = processor.size["longest_edge"], processor.max_image_size["longest_edge"]
    if not all(getattr(processor, step) for step in steps) or longest > _LARGEST_PX:
        raise ValueError(
            "its image processor does not resize, split, rescale and normalize, "
            f"or makes images of more than {_LARGEST_PX} pixels"
        )
    return Tiling(int(processor.resample), longest, tile)


def _portable(network: TileNetwork, tiling: Tiling, prompt: Prompt, tokenizer: Any) -> Portable:
    tile = (3, tiling.tile_px, tiling.tile_px)
    ids = np.full((2, prompt.tile_tokens + 2), prompt.pad_id, np.int64)
    ids[:, : prompt.tile_tokens] = network.image_token
    described = {"tiling": tiling.as_json(), "prompt": prompt.as_json()}

    def save(folder: Path) -> dict[str, object]:
        hf.save_vocabulary(tokenizer, folder)
        return {"kind": "tiles", **described}

    return Portable(
        network,
        (np.zeros((2, *tile), np.uint8), ids, np.ones_like(ids)),
        [(-1, *tile), (-1, -1), (-1, -1)],
        save,
    )


def _load_model(folder: ModelFolder) -> Any:
    snapshot = hf.snapshot(folder, "colpali_engine_model")
    config = hf.read_config(snapshot)
    if config["model_type"] != ModernVBertConfig.model_type:
        raise ModelFolderError(
            f"{snapshot.absolute()} holds a model of type {config['model_type']}, where one of "
            f"type {ModernVBertConfig.model_type} is needed"
        )
    if "text_model_name" not in config["text_config"]:  # a checkpoint in transformers' own format
        return ModernVBertModel.from_pretrained(snapshot, **hf.load_options())
    weights = find_weights(snapshot)
    if not weights:
        raise ModelFolderError(f"{snapshot.absolute()} holds no weights")
    cache = folder.part("colpali_engine_model")
    native = ModernVBertConfig(
        text_config=_text_config(cache, config),
        vision_config=_vision_config(cache, config["vision_config"]["vision_model_name"]),
        **{name: config[name] for name in ("image_token_id", "pixel_shuffle_factor")},
    )
    state = (
        load_file(weights)
        if weights.suffix == ".safetensors"
        else torch.load(weights, map_location="cpu", weights_only=True)
    )
    return ModernVBertModel.from_pretrained(
        None, config=native, state_dict=_renamed(state), **hf.load_options()
    )


def _text_config(cache: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    name = config["text_config"]["text_model_name"]
    if not (path := hub_snapshot(cache, name)):
        # Only this config has the settings of rope and local attention; guessed settings would
        # give wrong vectors.
        raise _lacking(cache, name)
    text = hf.read_config(path)
    return {**text, "vocab_size": text["vocab_size"] + config["additional_vocab_size"]}


def _vision_config(cache: Path, name: str) -> dict[str, Any]:
    if path := hub_snapshot(cache, name):
        config = hf.read_config(path)
        vision: dict[str, Any] = config.get("vision_config", config)
        return vision
    if name in _KNOWN_VISION:
        known: dict[str, Any] = SiglipVisionConfig(**_KNOWN_VISION[name]).to_dict()
        return known
    raise _lacking(cache, name)


def _lacking(cache: Path, name: str) -> ModelFolderError:
    return ModelFolderError(
        f"{cache.absolute()} lacks the config.json of {name}, which the reference looks up at "
        f"every start; this fetches it: hf download {name} config.json --cache-dir "
        f"{cache.absolute()}"
    )


def _renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights from colpali-engine's names to transformers' names."""
    prefix = common_prefix(weights)  # such as "model." or "model.model."
    renamed = {
        name.removeprefix(prefix).replace("modality_projection.proj.", "modality_projection."): w
        for name, w in weights.items()
    }
    tokens = "text_model.embeddings.tok_embeddings"
    parts = [renamed.pop(f"{tokens}.{part}", None) for part in ("weight", _MORE)]
    found = [part for part in parts if part is not None]  # a missing part: wrong shape
    return {**renamed, f"{tokens}.weight": torch.cat(found)} if found else renamed


class TextNetwork(nn.Module):
    """The text network: ids and mask [n, length] -> normalized vectors [n, dim] float32."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.text_model
        self.embed = self.model.get_input_embeddings()
        self._reach = self.model.config.sliding_window

    @override
    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.read(self.embed(ids), mask)

    def read(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """Compute vectors from token embeddings: [n, length, dim], mask [n, length] -> [n, dim]."""
        places = torch.arange(mask.shape[1], dtype=torch.int32, device=mask.device)
        distance = (places[:, None] - places[None, :]).abs()
        is_token = (mask > 0)[:, None, None, :]
        # Padding attends to itself, as attention over no token at all would give NaN.
        near = is_token & (distance <= self._reach) | (distance == 0)
        states = self.model(
            inputs_embeds=embeddings,
            attention_mask={"full_attention": is_token, "sliding_attention": near},
        ).last_hidden_state.float()
        weights = mask[..., None].float()
        return normalize((states * weights).sum(dim=1) / weights.sum(dim=1))


class TileNetwork(nn.Module):
    """The image network: tiles [tiles, 3, H, W], ids and mask [n, length] -> vectors [n, dim]."""

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        self.normalize = Normalize(
            processor.image_mean, processor.image_std, processor.rescale_factor
        )
        self.vision, self.connector = model.vision_model, model.connector
        self.text = TextNetwork(model)
        self.image_token: int = model.image_token_id

    @override
    def forward(self, tiles: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        dtype = self.text.embed.weight.dtype
        seen = self.vision(pixel_values=self.normalize(tiles).to(dtype)).last_hidden_state
        seen = self.connector(seen).flatten(0, 1)  # [tiles * tokens of a tile, dim]
        is_seen = ids == self.image_token
        # Convert to integers, as OpenVINO sums booleans in 8 bits, which overflow.
        order = (is_seen.long().flatten().cumsum(0) - 1).clamp(min=0).view_as(ids)
        embeddings = torch.where(is_seen[..., None], seen[order], self.text.embed(ids))
        return self.text.read(embeddings, mask)

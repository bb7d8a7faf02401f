"""OpenCLIP: its own CLIPs, and those whose text tower is a Hugging Face model.

See https://github.com/mlfoundations/open_clip and https://arxiv.org/abs/2212.07143

Source of the vectors' length: the reference's `clip.py` scales both towers' vectors to 1. Source of
the pixels: the reference hands the image in its own mode to open_clip's transform, which resizes
before it converts to RGB.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip import factory
from open_clip.hf_model import HFTextEncoder
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import text_global_pool
from PIL.Image import Image
from torch import Tensor, nn
from typing_extensions import override

from backends.families import openclip_portable
from backends.folder import ModelFolder, find_weights, hub_snapshot, hub_snapshots
from backends.inputs.pixels import to_pixels
from backends.inputs.resampling import Pixels
from backends.inputs.tokens import beginning
from backends.model import BackendOptions, Embeddings
from backends.torch.runtime import (
    ImageTower,
    Normalize,
    Portable,
    TorchNetwork,
    Towers,
    describe,
    dtype_of,
    place,
    unit_length,
)
from errors import ModelFolderError

_NAME = "model-folder"  # under which open_clip knows the architecture of the folder


def load(folder: ModelFolder, options: BackendOptions) -> Towers:
    """Load `openclip/`."""
    description = _read_description(folder.part("openclip"))
    model, config = _load_model(description, options)
    info = describe(
        folder,
        options,
        family="OpenCLIP",
        dimensions=int(description.architecture["embed_dim"]),
        image_px=min(openclip_portable.pair(model.visual.image_size)),
        networks=[model],
        config=description.reference_config,
    )
    tokenizer = open_clip.get_tokenizer(_NAME)
    return Towers(
        info,
        _Preprocess(config),
        _image_tower(model, config, options),
        _TextTower(model, tokenizer, options.device),
        lambda: _portable(model, config, tokenizer),
    )


@dataclass(frozen=True)
class _Description:
    """What the folder says of its model.

    Attributes:
        architecture: open_clip's `model_cfg`, its text tower's names replaced by paths.
        preprocess: open_clip's `preprocess_cfg`.
        weights: the checkpoint.
        reference_config: `config.json` as the reference's `GET /meta` has it.
    """

    architecture: dict[str, Any]
    preprocess: dict[str, Any]
    weights: Path
    reference_config: dict[str, Any]


def _read_description(path: Path) -> _Description:
    own = _read_json(path / "config.json")
    published = _read_json(path / "open_clip_config.json")
    name, tag = own.get("model_name", ""), own.get("pretrained", "")
    architecture = (
        published.get("model_cfg") or own.get("model_config") or open_clip.get_model_config(name)
    )
    if not architecture:
        raise ModelFolderError(
            f"{path.absolute()} does not say what its model is: open_clip does not know the name "
            f"{name!r}, and neither config.json (model_config) nor open_clip_config.json tells"
        )
    tag_config = open_clip.get_pretrained_cfg(name, tag) or {}
    known = asdict(PreprocessCfg()).keys()
    return _Description(
        architecture=_with_text_tower_on_disk(deepcopy(architecture), path),
        preprocess=published.get("preprocess_cfg")
        or {key: value for key, value in tag_config.items() if key in known},
        weights=_find_weights(path, tag),
        reference_config=own or published,
    )


def _find_weights(path: Path, pretrained: str) -> Path:
    named = path / Path(pretrained).name
    weights = named if named.is_file() else find_weights(path, *hub_snapshots(path))
    if weights is None:
        raise ModelFolderError(
            f"{path.absolute()} holds no weights: neither a *.safetensors, *.bin or *.pt file "
            "nor a hub cache (models--ORG--NAME) with one"
        )
    return weights


def _with_text_tower_on_disk(architecture: dict[str, Any], path: Path) -> dict[str, Any]:
    """Replace the hub names of the text tower and its tokenizer by their folders."""
    text = architecture["text_cfg"]
    for key in ("hf_model_name", "hf_tokenizer_name"):
        if text.get(key):
            text[key] = str(_on_disk(text[key], path))
    return architecture


def _on_disk(hub_name: str, path: Path) -> Path:
    beside = path / Path(hub_name).name
    found = beside if beside.is_dir() else hub_snapshot(path, hub_name)
    if found is None:
        raise ModelFolderError(
            f"{path.absolute()} lacks the config and the tokenizer of its text tower, {hub_name}: "
            "make the folder again with this project's download.py, or put them into "
            f"{path / Path(hub_name).name}"
        )
    return found


def _load_model(description: _Description, options: BackendOptions) -> tuple[Any, PreprocessCfg]:
    # No public function registers an architecture that lies in memory, only one in a file.
    factory._MODEL_CONFIGS[_NAME] = description.architecture
    model = open_clip.create_model(
        _NAME,
        pretrained=str(description.weights),
        force_preprocess_cfg=description.preprocess,
        device="cpu",
    )
    return place(model, options), PreprocessCfg(**model.visual.preprocess_cfg)


def _portable(model: Any, config: PreprocessCfg, tokenizer: Any) -> Portable:
    length, padding = _length_and_padding(tokenizer)
    is_blind = _is_blind_to_padding(model)
    return Portable(
        openclip_portable.geometry_of(config),
        partial(openclip_portable.save_vocabulary, tokenizer),
        openclip_portable.recipe_of(tokenizer, length, padding, is_blind=is_blind),
        _TextNetwork(model),
    )


class _Preprocess:
    """open_clip's own transform, ended at the pixels: the tower normalises them."""

    def __init__(self, config: PreprocessCfg) -> None:
        *self._steps, _to_tensor, _normalise = image_transform_v2(config, is_train=False).transforms

    def __call__(self, image: Image) -> Pixels:
        for step in self._steps:
            image = step(image)
        return np.ascontiguousarray(to_pixels(image))


def _image_tower(model: Any, config: PreprocessCfg, options: BackendOptions) -> nn.Module:
    dtype = dtype_of(options)
    return ImageTower(
        Normalize(config.mean, config.std),
        lambda numbers: model.encode_image(numbers.to(dtype)),
        model,
        unit_length,
    ).to(options.device)


class _TextTower:
    def __init__(self, model: Any, tokenizer: Any, device: str) -> None:
        self.truncated_texts = 0
        self._tokenize = tokenizer
        self._length, self._padding = _length_and_padding(tokenizer)
        self._encode = TorchNetwork(_TextNetwork(model), device)
        self._is_blind_to_padding = _is_blind_to_padding(model)

    def __call__(self, texts: Sequence[str]) -> Embeddings:
        texts = [beginning(text, self._length) for text in texts]
        ids = self._tokenize(texts)  # [n, context length], padded
        self.truncated_texts += self._count_cut(texts, ids)
        if self._is_blind_to_padding:
            ids = ids[:, : int(_lengths(ids, self._padding).max())]
        return self._encode(ids.numpy())

    def _count_cut(self, texts: Sequence[str], ids: Tensor) -> int:
        # The end token may be the padding too, so a full row shows in its last place but one.
        full = (ids[:, -2] != self._padding).nonzero().flatten().tolist()
        return sum(self._is_cut(texts[row], ids[row]) for row in full)

    def _is_cut(self, text: str, ids: Tensor) -> bool:
        longer = self._tokenize([text], len(ids) + 1)[0]
        return bool(longer[-1] != self._padding or (longer[:-1] != ids).any())


def _length_and_padding(tokenizer: Any) -> tuple[int, int]:
    nothing = tokenizer([""])[0]
    return len(nothing), int(nothing[-1])


def _lengths(ids: Tensor, padding: int) -> Tensor:
    """Return the number of tokens in each row, with an end token that is the padding too."""
    places = torch.arange(1, ids.shape[1] + 1)
    return ((ids != padding) * places).amax(dim=-1).add(1).clamp(max=ids.shape[1])


def _is_blind_to_padding(model: Any) -> bool:
    """Tell whether padding may be left out: it changes no vector, and costs time."""
    # A plain CLIP is causal and read at its end token; a Hugging Face tower masks its padding.
    plain = isinstance(model, open_clip.CLIP) and model.text_pool_type == "argmax"
    return plain or isinstance(getattr(model, "text", None), HFTextEncoder)


class _TextNetwork(nn.Module):
    """The text network: ids [n, length] -> [n, dim]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._is_plain = isinstance(model, open_clip.CLIP) and _is_blind_to_padding(model)

    @override
    def forward(self, ids: Tensor) -> Tensor:
        vectors = self._encode_plain(ids) if self._is_plain else self.model.encode_text(ids)
        return unit_length(vectors.float())

    def _encode_plain(self, ids: Tensor) -> Tensor:
        # `CLIP.encode_text` takes all 77 positions, and no fewer.
        model, length = self.model, ids.shape[1]
        x = model.token_embedding(ids) + model.positional_embedding[:length]  # [n, length, width]
        x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
        pooled = text_global_pool(model.ln_final(x), ids, model.text_pool_type)  # [n, width]
        projection = model.text_projection
        vectors: Tensor = (
            projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
        )
        return vectors


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content

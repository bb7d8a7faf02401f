"""OpenCLIP: its own CLIPs, and those whose text tower is a Hugging Face model.

See https://github.com/mlfoundations/open_clip and https://arxiv.org/abs/2212.07143

Source of the vectors' length: the reference's `clip.py` scales both towers' vectors to 1. Source of
the pixels: the reference hands the image in its own mode to open_clip's transform, which resizes
before it converts to RGB.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
from open_clip import factory
from open_clip.hf_model import HFTextEncoder
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import text_global_pool
from PIL.Image import Image
from torch import Tensor, nn
from torchvision.transforms import Normalize

from inference.backends import transformers_models as hf
from inference.backends.base import BackendOptions
from inference.backends.pixels import PixelsToNumbers, to_pixels
from inference.backends.tokens import beginning
from inference.backends.two_towers import TwoTowerBackend, describe, unit_length
from inference.errors import ModelFolderError
from inference.model_folder import ModelFolder, find_weights, hub_snapshot, hub_snapshots

_NAME = "model-folder"  # under which open_clip knows the architecture of the folder


def load(folder: ModelFolder, options: BackendOptions) -> TwoTowerBackend:
    """Load `openclip/`."""
    description = _read_description(folder.part("openclip"))
    model, transform = _load_model(description, options)
    info = describe(
        folder,
        options,
        family="OpenCLIP",
        dimensions=int(description.architecture["embed_dim"]),
        image_px=_shorter_side(model.visual.image_size),
        networks=[model],
        config=description.reference_config,
    )
    *geometry, normalise = transform.transforms
    return TwoTowerBackend(
        info,
        _Preprocess(geometry),
        _ImageTower(model, normalise).to(options.device),
        _TextTower(model, options.device),
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


def _load_model(description: _Description, options: BackendOptions) -> tuple[Any, Any]:
    # No public function registers an architecture that lies in memory, only one in a file.
    factory._MODEL_CONFIGS[_NAME] = description.architecture
    model = open_clip.create_model(
        _NAME,
        pretrained=str(description.weights),
        force_preprocess_cfg=description.preprocess,
        device="cpu",
    )
    transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    return hf.place(model, options.device), transform


class _Preprocess:
    """open_clip's own transform, ended at the pixels: the tower normalises them."""

    def __init__(self, geometry: list[Callable[[Any], Any]]) -> None:
        *self._steps, _to_tensor = geometry

    def __call__(self, image: Image) -> Tensor:
        for step in self._steps:
            image = step(image)
        return to_pixels(image).contiguous()


class _ImageTower(nn.Module):
    def __init__(self, model: Any, normalise: Normalize) -> None:
        super().__init__()
        self.model = model
        self.numbers = PixelsToNumbers(list(normalise.mean), list(normalise.std))

    def forward(self, pixels: Tensor) -> Tensor:
        return unit_length(self.model.encode_image(self.numbers(pixels)))


class _TextTower:
    def __init__(self, model: Any, device: str) -> None:
        self.truncated_texts = 0
        self._tokenize = open_clip.get_tokenizer(_NAME)
        nothing = self._tokenize([""])[0]
        self._length, self._padding = len(nothing), int(nothing[-1])
        self._encode = _text_network(model)
        self._device = device

    def __call__(self, texts: Sequence[str]) -> Tensor:
        texts = [beginning(text, self._length) for text in texts]
        ids = self._tokenize(texts)  # [n, context length], padded
        self.truncated_texts += self._count_cut(texts, ids)
        return unit_length(self._encode(ids.to(self._device)))

    def _count_cut(self, texts: Sequence[str], ids: Tensor) -> int:
        # The end token may be the padding too, so a full row shows in its last place but one.
        full = (ids[:, -2] != self._padding).nonzero().flatten().tolist()
        return sum(self._is_cut(texts[row], ids[row]) for row in full)

    def _is_cut(self, text: str, ids: Tensor) -> bool:
        longer = self._tokenize([text], len(ids) + 1)[0]
        return bool(longer[-1] != self._padding or (longer[:-1] != ids).any())


def _text_network(model: Any) -> Callable[[Tensor], Tensor]:
    """Return the network over ids, which leaves out padding where that changes nothing."""
    if isinstance(model, open_clip.CLIP) and model.text_pool_type == "argmax":
        return partial(_encode_up_to_end_token, model)
    if isinstance(getattr(model, "text", None), HFTextEncoder):
        return partial(_encode_unpadded, model)
    encode: Callable[[Tensor], Tensor] = model.encode_text
    return encode


def _encode_up_to_end_token(model: Any, ids: Tensor) -> Tensor:
    # `CLIP.encode_text` computes all 77 positions. Attention is causal and the vector is read at
    # the end token, so the positions after the longest text's end token change nothing.
    length = int(ids.argmax(dim=-1).max()) + 1
    ids = ids[:, :length]
    x = model.token_embedding(ids) + model.positional_embedding[:length]  # [n, length, width]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    pooled = text_global_pool(model.ln_final(x), ids, model.text_pool_type)  # [n, width]
    projection = model.text_projection
    vectors: Tensor = (
        projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
    )
    return vectors


def _encode_unpadded(model: Any, ids: Tensor) -> Tensor:
    # A Hugging Face tower masks its padding, which stands on the right.
    length = int((ids != model.text.config.pad_token_id).sum(dim=-1).max())
    vectors: Tensor = model.encode_text(ids[:, :length])
    return vectors


def _shorter_side(size: int | tuple[int, int]) -> int:
    return size if isinstance(size, int) else min(size)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content

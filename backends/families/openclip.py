"""OpenCLIP: its own CLIP models, and CLIP models with a Hugging Face text tower.

See https://github.com/mlfoundations/open_clip and https://arxiv.org/abs/2212.07143

Source of the normalization: the reference's `clip.py` scales both towers' vectors to length 1.
Source of the pixels: the reference passes the image in its own colour mode to open_clip's
transform, which resizes before it converts to RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
import open_clip
from open_clip import factory
from open_clip.hf_model import HFTextEncoder
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import text_global_pool
from PIL.Image import Image
from torch import Tensor, nn
from typing_extensions import override

from backends.families import openclip_portable
from backends.families import transformers_models as hf
from backends.families.openclip_folder import OpenClipConfig, read_openclip_config
from backends.folder import ModelFolder
from backends.model import ModelOptions
from backends.preprocessing.pixels import PixelProcessor, to_pixels
from backends.preprocessing.resampling import Pixels
from backends.preprocessing.tokens import Padding, TokenProcessor, Tokens, beginning
from backends.preprocessing.vocabulary import VocabularyInfo, describe_tokens, unknown_id_error
from backends.runtimes.torch.towers import (
    EVERY_TEXT_MODE,
    ImageTower,
    Normalize,
    TorchModel,
    TorchTower,
    describe,
    normalize,
    place,
    portable_images,
    portable_texts,
    torch_dtype,
)

_NAME = "model-folder"  # the name under which open_clip registers the architecture


def load(folder: ModelFolder, options: ModelOptions) -> TorchModel:
    """Load the model in `openclip/`."""
    description = read_openclip_config(folder.part("openclip"))
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
    return TorchModel(
        info,
        {
            "text": _text_tower(model, tokenizer),
            "image": _image_tower(model, config, options),
        },
        EVERY_TEXT_MODE,
    )


def _load_model(description: OpenClipConfig, options: ModelOptions) -> tuple[Any, PreprocessCfg]:
    # open_clip registers architectures from files only, not from memory.
    factory._MODEL_CONFIGS[_NAME] = description.architecture
    model = open_clip.create_model(
        _NAME,
        pretrained=str(description.weights),
        force_preprocess_cfg=description.preprocess,
        device="cpu",
    )
    return place(model, options), PreprocessCfg(**model.visual.preprocess_cfg)


class _Preprocess:
    """open_clip's image transform without the normalization, which is part of the tower."""

    def __init__(self, config: PreprocessCfg) -> None:
        *self._steps, _to_tensor, _normalize = image_transform_v2(config, is_train=False).transforms

    def __call__(self, image: Image) -> Pixels:
        for step in self._steps:
            image = step(image)
        return np.ascontiguousarray(to_pixels(image))


def _image_tower(model: Any, config: PreprocessCfg, options: ModelOptions) -> TorchTower:
    dtype = torch_dtype(options)
    module = ImageTower(
        Normalize(config.mean, config.std),
        lambda numbers: model.encode_image(numbers.to(dtype)),
        model,
        normalize,
    ).to(options.device)
    return TorchTower(
        PixelProcessor(_Preprocess(config)),
        module,
        lambda: portable_images(module, openclip_portable.describe_geometry(config)),
    )


def _text_tower(model: Any, tokenizer: Any) -> TorchTower:
    if places := hf.positions(model):  # a Hugging Face text tower
        tokenizer.context_length = min(tokenizer.context_length, places)
    nothing = tokenizer([""])[0]  # [context length], padded
    is_blind = _is_blind_to_padding(model)
    padding = Padding("rounded" if is_blind else "full", len(nothing), int(nothing[-1]))
    module = _TextNetwork(model)
    save_vocabulary = partial(openclip_portable.save_vocabulary, tokenizer)
    return TorchTower(
        TokenProcessor(_Tokenize(tokenizer, padding), padding),
        module,
        lambda: portable_texts(
            module, openclip_portable.describe_recipe(tokenizer, padding), save_vocabulary
        ),
    )


class _Tokenize:
    """A tokenizer of open_clip, without its padding."""

    def __init__(self, tokenizer: Any, padding: Padding) -> None:
        self._tokenize = tokenizer
        self._length, self._padding = padding.longest, padding.token_id
        inner = getattr(tokenizer, "tokenizer", None)
        self._ends_in_padding = padding.token_id == getattr(inner, "eos_token_id", None)
        self._lock = Lock()  # tokenizers of transformers set their truncation at every call

    @property
    def vocabulary_info(self) -> VocabularyInfo:
        """Facts about the tokenizer's vocabulary."""
        if inner := getattr(self._tokenize, "tokenizer", None):
            return hf.describe_transformers_vocabulary(inner)
        return describe_tokens(self._tokenize.encoder, ())

    def __call__(self, text: str) -> Tokens:
        text = beginning(text, self._length)
        with self._lock:
            ids: list[int] = self._tokenize([text])[0].tolist()
            truncated = self._is_cut(text, ids)
        last = max((i for i, token in enumerate(ids) if token != self._padding), default=-1)
        return Tokens(ids[: last + 1 + self._ends_in_padding], truncated)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens.

        Raises:
            InvalidInputError: an id is not in the vocabulary.
        """
        if inner := getattr(self._tokenize, "tokenizer", None):
            with self._lock:
                return hf.decode_ids(inner, ids)
        plain = [token_id for token_id in ids if token_id not in self._tokenize.all_special_ids]
        for token_id in plain:
            if token_id not in self._tokenize.decoder:
                raise unknown_id_error(token_id)
        text: str = self._tokenize.decode(plain)
        return text.strip()

    def _is_cut(self, text: str, ids: list[int]) -> bool:
        # The end token may equal the padding token, so look at the second to last token: if it is
        # no padding, the text fills the whole context.
        if ids[-2] == self._padding:
            return False
        longer: list[int] = self._tokenize([text], len(ids) + 1)[0].tolist()
        return longer[-1] != self._padding or longer[:-1] != ids


def _is_blind_to_padding(model: Any) -> bool:
    """Return whether padding changes no vector, so that it can be left out to save time."""
    # A plain CLIP has causal attention and pools its end token; a Hugging Face tower masks padding.
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
        return normalize(vectors.float())

    def _encode_plain(self, ids: Tensor) -> Tensor:
        # `CLIP.encode_text` accepts only padded texts of exactly 77 tokens.
        model, length = self.model, ids.shape[1]
        x = model.token_embedding(ids) + model.positional_embedding[:length]  # [n, length, width]
        x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
        pooled = text_global_pool(model.ln_final(x), ids, model.text_pool_type)  # [n, width]
        projection = model.text_projection
        vectors: Tensor = (
            projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
        )
        return vectors

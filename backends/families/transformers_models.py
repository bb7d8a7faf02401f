"""What the families that transformers implements have in common: loading, quietly and from disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer as Vocabulary
from torch import Tensor, nn
from typing_extensions import override

from backends.inputs import siglip1_tokens
from backends.inputs.cleaning import CLEANING
from backends.inputs.pixels import Preprocess
from backends.inputs.siglip1_tokens import SpecialTokens
from backends.inputs.tokens import VOCABULARY, TextRecipe, TokenIds, beginning
from backends.model import ModelInfo
from backends.torch.runtime import (
    ImageTower,
    Normalize,
    Portable,
    TorchNetwork,
    Towers,
)
from backends.two_towers import TokenTower
from errors import ConversionError

transformers.logging.set_verbosity_error()  # its advice is for people who train
transformers.utils.logging.disable_progress_bar()


def read_config(folder: Path) -> dict[str, Any]:
    """Read a `config.json`."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def image_tower(model: Any, processor: Any, finish: Callable[[Tensor], Tensor]) -> nn.Module:
    """Build the image tower: [n, 3, H, W] uint8 -> [n, dim]."""

    def network(numbers: Tensor) -> Tensor:
        features: Tensor = model.get_image_features(pixel_values=numbers).pooler_output
        return features

    normalize = Normalize(processor.image_mean, processor.image_std, processor.rescale_factor)
    return ImageTower(normalize, network, model, finish).to(model.device)


class TextNetwork(nn.Module):
    """The network of a text tower: ids [n, length] -> [n, dim]."""

    def __init__(self, model: Any, finish: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self._finish = finish

    @override
    def forward(self, ids: Tensor) -> Tensor:
        return self._finish(self.model.get_text_features(input_ids=ids).pooler_output.float())


class TransformersTokenizer:
    """Tokenises by transformers: cuts with the end token kept, and counts the cuts.

    Args:
        tokenizer: transformers' own.
        recipe: what is done.
    """

    def __init__(self, tokenizer: Any, recipe: TextRecipe) -> None:
        self.truncated_texts = 0
        self._tokenizer = tokenizer
        self._max_length = recipe.max_length
        self._clean = CLEANING[recipe.cleaning]

    def __call__(self, texts: Sequence[str]) -> TokenIds:
        """Return the ids of each text, those of a long one cut."""
        clean = [self._clean(beginning(text, self._max_length)) for text in texts]
        encoded = self._tokenizer(
            clean, truncation=True, max_length=self._max_length, return_attention_mask=False
        )
        rows: TokenIds = list(encoded["input_ids"])
        self.truncated_texts += sum(map(self._is_cut, clean, rows))
        return rows

    def _is_cut(self, text: str, ids: list[int]) -> bool:
        # Only a text that takes every place can be a longer one, so few are tokenised twice.
        return len(ids) == self._max_length and is_longer(self._tokenizer, text, self._max_length)


def is_longer(tokenizer: Any, text: str, length: int) -> bool:
    """Tell whether a text has more tokens than `length`, by giving it room for one more."""
    return len(tokenizer(text, truncation=True, max_length=length + 1)["input_ids"]) > length


def save_vocabulary(tokenizer: Any, folder: Path) -> None:
    """Write what a transformers tokenizer is made of into a converted model's folder.

    Raises:
        ConversionError: it is made of something that only transformers knows.
    """
    if getattr(tokenizer, "truncation_side", "right") != "right":
        raise ConversionError("its tokenizer cuts a text's beginning off")
    vocabulary = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(vocabulary, Vocabulary):
        vocabulary.save(str(folder / VOCABULARY))
    elif isinstance(tokenizer, transformers.SiglipTokenizer) and tokenizer.do_lower_case:
        ids = {name: tokenizer.convert_tokens_to_ids(name) for name in tokenizer.all_special_tokens}
        special = SpecialTokens(ids, tokenizer.unk_token, tokenizer.eos_token_id)
        siglip1_tokens.write(Path(tokenizer.vocab_file), special, folder)
    else:
        raise ConversionError(f"its tokenizer ({type(tokenizer).__name__}) needs transformers")


def two_towers(
    info: ModelInfo,
    preprocess: Preprocess,
    images: nn.Module,
    texts: nn.Module,
    tokenizer: Any,
    recipe: TextRecipe,
) -> Towers:
    """Put the parts together for a model with one tokenizer of transformers."""

    def portable() -> Portable:
        save = partial(save_vocabulary, tokenizer)
        return Portable(preprocess.geometry, save, recipe, texts)

    network = TorchNetwork(texts, info.device)
    tower = TokenTower(TransformersTokenizer(tokenizer, recipe), recipe.padding, network)
    return Towers(info, preprocess, images, tower, portable)


def full_config(model: Any) -> Mapping[str, object]:
    """Return a model's whole configuration, defaults included, in JSON's types."""
    config: dict[str, object] = json.loads(model.config.to_json_string(use_diff=False))
    return config


def load_options() -> dict[str, Any]:
    """Options of every `from_pretrained` of a model."""
    return {"dtype": torch.float32, "local_files_only": True}

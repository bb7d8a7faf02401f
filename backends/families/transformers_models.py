"""What the families that transformers implements have in common: loading, quietly and from disk."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer as Vocabulary
from torch import Tensor, nn
from transformers.masking_utils import sdpa_mask
from typing_extensions import override

from backends.model import ModelOptions
from backends.preprocessing import siglip1_tokens
from backends.preprocessing.pixels import Geometry, PixelProcessor
from backends.preprocessing.siglip1_tokens import SpecialTokens
from backends.preprocessing.text_normalizers import NORMALIZERS
from backends.preprocessing.tokens import (
    VOCABULARY,
    Known,
    TextRecipe,
    Tokenize,
    Tokenizer,
    TokenProcessor,
    Tokens,
    beginning,
    decode,
    known_by,
    known_of,
    unknown_id,
)
from backends.runtimes.torch.resizing import preprocess_of
from backends.runtimes.torch.towers import (
    ImageTower,
    Normalize,
    TorchTower,
    portable_images,
    portable_texts,
)
from errors import ConversionError, ModelFolderError

transformers.logging.set_verbosity_error()  # its advice is for people who train
transformers.utils.logging.disable_progress_bar()


def _mask_of_places(*args: Any, use_vmap: bool = False, **options: Any) -> Tensor | None:
    """Make a mask of attention by arithmetic on all places of tokens at once.

    A mask with a rule of the model's own, as Gemma's window to both sides, transformers makes one
    place at a time, by vmap, which cannot be traced; such rules work on all places at once as well.
    """
    mask: Tensor | None = sdpa_mask(*args, **options)
    return mask


transformers.AttentionMaskInterface.register("sdpa", _mask_of_places)

# How networks call their tables of positions.
_POSITIONS = re.compile(r"(^|\.)(position_embeddings?|wpe)$")
_VOCABULARIES = (VOCABULARY, "vocab.*", "*.model")  # files of which a tokenizer is made


def read_config(folder: Path) -> dict[str, Any]:
    """Read a `config.json`."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def image_tower(
    model: Any, processor: Any, geometry: Geometry, postprocess: Callable[[Tensor], Tensor]
) -> TorchTower:
    """Build the tower of images of one size."""

    def network(numbers: Tensor) -> Tensor:
        features: Tensor = model.get_image_features(pixel_values=numbers).pooler_output
        return features

    normalize = Normalize(processor.image_mean, processor.image_std, processor.rescale_factor)
    images = ImageTower(normalize, network, model, postprocess).to(model.device)
    return TorchTower(
        PixelProcessor(preprocess_of(geometry)),
        images,
        lambda: portable_images(images, geometry),
    )


class TextNetwork(nn.Module):
    """The network of a text tower: ids [n, length] -> [n, dim]."""

    def __init__(self, model: Any, postprocess: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self._postprocess = postprocess

    @override
    def forward(self, ids: Tensor) -> Tensor:
        return self._postprocess(self.model.get_text_features(input_ids=ids).pooler_output.float())


class TransformersTokenizer:
    """Tokenizes by transformers, and cuts with the end token kept.

    Args:
        tokenizer: transformers' own.
        recipe: what is done.
    """

    def __init__(self, tokenizer: Any, recipe: TextRecipe) -> None:
        self._tokenizer = tokenizer
        self._max_length = recipe.padding.longest
        self._clean = NORMALIZERS[recipe.cleaning]
        self._lock = Lock()  # it notes where to cut in itself, at every call

    @property
    def known(self) -> Known:
        """What its vocabulary holds."""
        return known_by_transformers(self._tokenizer)

    def __call__(self, text: str) -> Tokens:
        """Return the ids of a text, those of a long one cut."""
        clean = self._clean(beginning(text, self._max_length))
        with self._lock:
            encoded = self._tokenizer(
                clean, truncation=True, max_length=self._max_length, return_attention_mask=False
            )
            ids: list[int] = encoded["input_ids"]
            return Tokens(ids, is_cut(self._tokenizer, clean, ids, self._max_length))

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special ones left out.

        Raises:
            InvalidInputError: one is none of the vocabulary.
        """
        with self._lock:
            return text_of(self._tokenizer, ids)


def load_tokenizer(folder: Path, options: ModelOptions) -> Any:
    """Load the tokenizer of a model of texts, as its `tokenizer.json` stands.

    The classes that a model's tokenizer names make parts of it anew by rules of their own, and
    where these do not fit the file, the vectors are other ones.
    """
    if (folder / VOCABULARY).is_file():
        return transformers.PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return load_own_tokenizer(folder, options)


def load_own_tokenizer(folder: Path, options: ModelOptions) -> Any:
    """Load a tokenizer by the class that its folder names.

    Raises:
        ModelFolderError: its files are not there.
    """
    try:
        return transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=options.trust_remote_code, local_files_only=True
        )
    except Exception as error:
        # Each class says in words of its own that it has nothing to be made of.
        if any(path for name in _VOCABULARIES for path in folder.glob(name)):
            raise
        raise ModelFolderError(
            f"{folder.absolute()} holds no vocabulary for its tokenizer: none of "
            f"{', '.join(_VOCABULARIES)}"
        ) from error


def load_image_processor(kind: Any, folder: Path) -> Any:
    """Load an image processor of transformers.

    Raises:
        ModelFolderError: the folder does not say how images are prepared.
    """
    # transformers 5 saves a processor_config.json where 4 saved a preprocessor_config.json.
    if not any(folder.glob("*processor_config.json")):
        raise ModelFolderError(
            f"{folder.absolute()} has no preprocessor_config.json, which says how its images are "
            "prepared"
        )
    return kind.from_pretrained(folder, local_files_only=True)


def known_by_transformers(tokenizer: Any) -> Known:
    """Say what the vocabulary of a tokenizer holds."""
    vocabulary = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if isinstance(vocabulary, Vocabulary):
        return known_by(vocabulary)
    return known_of(tokenizer.get_vocab(), set(tokenizer.all_special_tokens))


def tokenize_by(tokenizer: Any, recipe: TextRecipe) -> Tokenize:
    """Return a tokenizer that uses the tokenizers library directly if it can, else transformers."""
    vocabulary = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(vocabulary, Vocabulary) and tokenizer.truncation_side == "right":
        return Tokenizer(vocabulary, recipe)
    return TransformersTokenizer(tokenizer, recipe)


def is_cut(tokenizer: Any, text: str, ids: Sequence[int], length: int) -> bool:
    """Tell whether a text has more tokens than those ids, by giving it room for one more."""
    if len(ids) < length:  # most are not tokenized twice
        return False
    return len(tokenizer(text, truncation=True, max_length=length + 1)["input_ids"]) > length


def text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of ids, special ones left out; not beside a thread that tokenizes.

    Raises:
        InvalidInputError: one is none of the vocabulary.
    """
    vocabulary = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if isinstance(vocabulary, Vocabulary):
        return decode(vocabulary, ids)
    for one in ids:
        if not 0 <= one < len(tokenizer):
            raise unknown_id(one)
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    return text


def save_vocabulary(tokenizer: Any, folder: Path) -> str:
    """Write what a transformers tokenizer is made of into a converted model's folder.

    Returns:
        the kind of the input processor that reads it.

    Raises:
        ConversionError: it is made of something that only transformers knows.
    """
    if getattr(tokenizer, "truncation_side", "right") != "right":
        raise ConversionError("its tokenizer cuts a text's beginning off")
    vocabulary = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(vocabulary, Vocabulary):
        vocabulary.save(str(folder / VOCABULARY))
        return "tokens"
    if isinstance(tokenizer, transformers.SiglipTokenizer) and tokenizer.do_lower_case:
        ids = {name: tokenizer.convert_tokens_to_ids(name) for name in tokenizer.all_special_tokens}
        special = SpecialTokens(ids, tokenizer.unk_token, tokenizer.eos_token_id)
        siglip1_tokens.write(Path(tokenizer.vocab_file), special, folder)
        return "siglip1_tokens"
    raise ConversionError(f"its tokenizer ({type(tokenizer).__name__}) needs transformers")


def text_tower(texts: nn.Module, tokenizer: Any, recipe: TextRecipe) -> TorchTower:
    """Build the tower of texts that a tokenizer of transformers reads.

    Args:
        texts: the network: ids, and a mask if the padding makes one -> [n, dim].
        tokenizer: transformers' own.
        recipe: how texts become ids.
    """
    return TorchTower(
        TokenProcessor(TransformersTokenizer(tokenizer, recipe), recipe.padding),
        texts,
        lambda: portable_texts(texts, recipe, partial(save_vocabulary, tokenizer)),
    )


def full_config(model: Any) -> Mapping[str, object]:
    """Return a model's whole configuration, defaults included, in JSON's types."""
    config: dict[str, object] = json.loads(model.config.to_json_string(use_diff=False))
    return config


def positions(model: nn.Module) -> int | None:
    """Return how many tokens a text network has a table of positions for; None without a table."""
    found = [
        # RoBERTa and its relatives count from behind the position of the padding.
        table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
        for name, table in model.named_modules()
        if isinstance(table, nn.Embedding) and _POSITIONS.search(name) and "vision" not in name
    ]
    return min(found, default=None)


def load_options() -> dict[str, Any]:
    """Options of every `from_pretrained` of a model."""
    return {"dtype": torch.float32, "local_files_only": True}

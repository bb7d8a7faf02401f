"""Loads models, tokenizers and image processors of transformers, for several families."""

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

from backends.folder import ModelFolder
from backends.hub_cache import hub_snapshot
from backends.json_files import read_json
from backends.model import ModelOptions
from backends.preprocessing import siglip1_tokens
from backends.preprocessing.pixels import Geometry, PixelProcessor
from backends.preprocessing.siglip1_tokens import SpecialTokens
from backends.preprocessing.text_normalizers import NORMALIZERS
from backends.preprocessing.tokens import (
    TextRecipe,
    Tokenize,
    Tokenizer,
    TokenProcessor,
    Tokens,
    beginning,
)
from backends.preprocessing.vocabulary import (
    VOCABULARY,
    VocabularyInfo,
    decode,
    describe_tokens,
    describe_vocabulary,
    unknown_id_error,
)
from backends.runtimes.torch.resizing import make_preprocess
from backends.runtimes.torch.towers import (
    ImageTower,
    Normalize,
    TorchTower,
    portable_images,
    portable_texts,
)
from errors import ConversionError, ModelFolderError

transformers.logging.set_verbosity_error()  # transformers' warnings are about training
transformers.utils.logging.disable_progress_bar()


def _attention_mask(*args: Any, use_vmap: bool = False, **options: Any) -> Tensor | None:
    """Make an attention mask by broadcasting, including mask functions that a model adds.

    For such functions, for example EmbeddingGemma's sliding window, transformers uses `vmap`, which
    torch cannot trace. The functions depend on positions only, so broadcasting gives the same mask.
    """
    mask: Tensor | None = sdpa_mask(*args, **options)
    return mask


transformers.AttentionMaskInterface.register("sdpa", _attention_mask)

# Names of the attribute that holds position embeddings, in transformers' text networks.
_POSITIONS = re.compile(r"(^|\.)(position_embeddings?|wpe)$")
_VOCABULARIES = (VOCABULARY, "vocab.*", "*.model")  # names of tokenizer files


def read_config(folder: Path) -> dict[str, Any]:
    """Read a `config.json`."""
    return read_json(folder / "config.json", dict)


def snapshot(folder: ModelFolder, part: str) -> Path:
    """Return a model's snapshot in the hub cache that is a part of its folder.

    Raises:
        ModelFolderError: the hub cache holds no files of it.
    """
    if path := hub_snapshot(folder.part(part), folder.hub_name):
        return path
    raise ModelFolderError(f"{folder.part(part).absolute()} holds no files of {folder.hub_name}")


def shown_config(folder: ModelFolder, part: str) -> Mapping[str, object]:
    """Return the config that `GET /meta` shows: the part's own, or that of its snapshot."""
    path = folder.part(part)
    return read_config(path if (path / "config.json").is_file() else snapshot(folder, part))


def image_tower(
    model: Any, processor: Any, geometry: Geometry, postprocess: Callable[[Tensor], Tensor]
) -> TorchTower:
    """Build an image tower whose network takes images of a fixed size."""

    def network(numbers: Tensor) -> Tensor:
        features: Tensor = model.get_image_features(pixel_values=numbers).pooler_output
        return features

    normalize = Normalize(processor.image_mean, processor.image_std, processor.rescale_factor)
    images = ImageTower(normalize, network, model, postprocess).to(model.device)
    return TorchTower(
        PixelProcessor(make_preprocess(geometry)),
        images,
        lambda: portable_images(images, geometry),
    )


class TextNetwork(nn.Module):
    """A text network: ids [n, length] -> vectors [n, dim]."""

    def __init__(self, model: Any, postprocess: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self._postprocess = postprocess

    @override
    def forward(self, ids: Tensor) -> Tensor:
        return self._postprocess(self.model.get_text_features(input_ids=ids).pooler_output.float())


class TransformersTokenizer:
    """A tokenizer of transformers; a truncated text keeps its end token.

    Args:
        tokenizer: the tokenizer of transformers.
        recipe: normalization, truncation and padding.
    """

    def __init__(self, tokenizer: Any, recipe: TextRecipe) -> None:
        self._tokenizer = tokenizer
        self._max_length = recipe.padding.longest
        self._clean = NORMALIZERS[recipe.cleaning]
        self._lock = Lock()  # the tokenizer sets its truncation at every call

    @property
    def vocabulary_info(self) -> VocabularyInfo:
        """Facts about the tokenizer's vocabulary."""
        return describe_transformers_vocabulary(self._tokenizer)

    def __call__(self, text: str) -> Tokens:
        """Tokenize a text, truncated to the maximum length."""
        clean = self._clean(beginning(text, self._max_length))
        with self._lock:
            encoded = self._tokenizer(
                clean, truncation=True, max_length=self._max_length, return_attention_mask=False
            )
            ids: list[int] = encoded["input_ids"]
            return Tokens(ids, is_cut(self._tokenizer, clean, ids, self._max_length))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens.

        Raises:
            InvalidInputError: an id is not in the vocabulary.
        """
        with self._lock:
            return decode_ids(self._tokenizer, ids)


def load_tokenizer(folder: Path, options: ModelOptions) -> Any:
    """Load the tokenizer of a text model exactly as `tokenizer.json` describes it.

    The tokenizer classes of transformers replace some parts of the file by defaults of the class.
    If these differ from the file, the vectors differ.
    """
    if (folder / VOCABULARY).is_file():
        return transformers.PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return load_own_tokenizer(folder, options)


def load_own_tokenizer(folder: Path, options: ModelOptions) -> Any:
    """Load a tokenizer with the class that its configuration names.

    Raises:
        ModelFolderError: the tokenizer's files are missing.
    """
    try:
        return transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=options.trust_remote_code, local_files_only=True
        )
    except Exception as error:
        # Each class raises another error if files are missing, so look for the files here.
        if any(path for name in _VOCABULARIES for path in folder.glob(name)):
            raise
        raise ModelFolderError(
            f"{folder.absolute()} holds no vocabulary for its tokenizer: none of "
            f"{', '.join(_VOCABULARIES)}"
        ) from error


def load_image_processor(kind: Any, folder: Path) -> Any:
    """Load an image processor of transformers.

    Raises:
        ModelFolderError: the folder has no configuration file of an image processor.
    """
    # transformers 5 writes processor_config.json where transformers 4 wrote
    # preprocessor_config.json.
    if not any(folder.glob("*processor_config.json")):
        raise ModelFolderError(
            f"{folder.absolute()} has no preprocessor_config.json, which describes how images are "
            "preprocessed"
        )
    return kind.from_pretrained(folder, local_files_only=True)


def describe_transformers_vocabulary(tokenizer: Any) -> VocabularyInfo:
    """Return facts about a transformers tokenizer's vocabulary."""
    vocabulary = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if isinstance(vocabulary, Vocabulary):
        return describe_vocabulary(vocabulary)
    return describe_tokens(tokenizer.get_vocab(), set(tokenizer.all_special_tokens))


def tokenize_by(tokenizer: Any, recipe: TextRecipe) -> Tokenize:
    """Return a tokenizer of the tokenizers library, or of transformers if only it can load it."""
    vocabulary = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(vocabulary, Vocabulary) and tokenizer.truncation_side == "right":
        return Tokenizer(vocabulary, recipe)
    return TransformersTokenizer(tokenizer, recipe)


def is_cut(tokenizer: Any, text: str, ids: Sequence[int], length: int) -> bool:
    """Return whether a text was truncated to `ids`, by tokenizing it with `length` + 1 tokens."""
    if len(ids) < length:  # most texts are short, and not tokenized again
        return False
    return len(tokenizer(text, truncation=True, max_length=length + 1)["input_ids"]) > length


def decode_ids(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of token ids, without special tokens; not thread-safe.

    Raises:
        InvalidInputError: an id is not in the vocabulary.
    """
    vocabulary = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if isinstance(vocabulary, Vocabulary):
        return decode(vocabulary, ids)
    for token_id in ids:
        if not 0 <= token_id < len(tokenizer):
            raise unknown_id_error(token_id)
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    return text


def save_vocabulary(tokenizer: Any, folder: Path) -> str:
    """Write the vocabulary of a transformers tokenizer into a converted model's folder.

    Returns:
        The kind of the input processor that reads the vocabulary.

    Raises:
        ConversionError: only transformers can load the tokenizer.
    """
    if getattr(tokenizer, "truncation_side", "right") != "right":
        raise ConversionError("its tokenizer truncates the beginning of a text")
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
    """Build a text tower with a tokenizer of transformers.

    Args:
        texts: the network: ids and, if the padding is masked, a mask -> vectors [n, dim].
        tokenizer: the tokenizer of transformers.
        recipe: normalization, truncation and padding of texts.
    """
    return TorchTower(
        TokenProcessor(TransformersTokenizer(tokenizer, recipe), recipe.padding),
        texts,
        lambda: portable_texts(texts, recipe, partial(save_vocabulary, tokenizer)),
    )


def full_config(model: Any) -> Mapping[str, object]:
    """Return a model's configuration, including defaults, as JSON types."""
    config: dict[str, object] = json.loads(model.config.to_json_string(use_diff=False))
    return config


def positions(model: nn.Module) -> int | None:
    """Return a text network's maximum number of tokens; None without position embeddings."""
    found = [
        # RoBERTa and its relatives number positions from the index of the padding plus 1.
        table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
        for name, table in model.named_modules()
        if isinstance(table, nn.Embedding) and _POSITIONS.search(name) and "vision" not in name
    ]
    return min(found, default=None)


def load_options() -> dict[str, Any]:
    """Return the options for each call of a model's `from_pretrained`."""
    return {"dtype": torch.float32, "local_files_only": True}

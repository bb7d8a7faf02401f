"""Describes an OpenCLIP model's image transform and tokenizer, for serving without open_clip.

The results equal open_clip's results (tests/test_portable.py compares both).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from open_clip import tokenizer as texts
from open_clip.transform import PreprocessCfg
from PIL.Image import Resampling
from tokenizers import Regex, decoders
from tokenizers import Tokenizer as Vocabulary
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.processors import TemplateProcessing

from backends.families import transformers_models as hf
from backends.preprocessing.pixels import Geometry
from backends.preprocessing.text_normalizers import Normalizer
from backends.preprocessing.tokens import Padding, TextRecipe
from backends.preprocessing.vocabulary import VOCABULARY
from errors import ConversionError

_CLEANING: dict[object, Normalizer] = {
    texts._clean_lower: "open_clip/lower",
    texts._clean_whitespace: "open_clip/whitespace",
    texts._clean_canonicalize: "open_clip/canonicalize",
}


def pair(size: int | tuple[int, ...]) -> tuple[int, int]:
    """Return a size as (height, width) in pixels; open_clip may write one number for both."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def describe_geometry(config: PreprocessCfg) -> Geometry:
    """Describe open_clip's image transform.

    Raises:
        ConversionError: a `Geometry` cannot describe the transform.
    """
    size = pair(config.size)
    shortest = config.resize_mode == "shortest" and size[0] == size[1]
    if not (shortest or config.resize_mode == "squash"):
        raise ConversionError(f"its images are resized by open_clip's mode {config.resize_mode!r}")
    return Geometry(
        kernel="pillow",
        shortest_edge_px=size[0] if shortest else None,
        size_px=size,
        crop_px=size if shortest else None,
        # open_clip uses bicubic interpolation unless the configuration says bilinear.
        resample=Resampling.BILINEAR if config.interpolation == "bilinear" else Resampling.BICUBIC,
        as_torchvision=True,
    )


def save_vocabulary(tokenizer: Any, folder: Path) -> str:
    """Write the vocabulary of an open_clip tokenizer into a converted model's folder.

    Returns:
        The kind of the input processor that reads the vocabulary.

    Raises:
        ConversionError: only open_clip can run the tokenizer.
    """
    if isinstance(tokenizer, texts.SimpleTokenizer) and not tokenizer.reduction_fn:
        _simple_vocabulary(tokenizer).save(str(folder / VOCABULARY))
        return "tokens"
    plain = isinstance(tokenizer, texts.HFTokenizer) and not tokenizer.tokenizer_mode
    if not plain or tokenizer.strip_sep_token:
        raise ConversionError(
            f"its tokenizer (open_clip's {type(tokenizer).__name__}) needs open_clip"
        )
    return hf.save_vocabulary(tokenizer.tokenizer, folder)


def describe_recipe(tokenizer: Any, padding: Padding) -> TextRecipe:
    """Describe how open_clip normalizes, truncates and pads texts."""
    return TextRecipe(_CLEANING[tokenizer.clean_fn], padding)


def _simple_vocabulary(tokenizer: texts.SimpleTokenizer) -> Vocabulary:
    merges = list(tokenizer.bpe_ranks)
    vocabulary = Vocabulary(BPE(tokenizer.encoder, merges, end_of_word_suffix="</w>"))
    words = Split(Regex(f"(?i){tokenizer.pat.pattern}"), behavior="removed", invert=True)
    bytes_as_letters = ByteLevel(add_prefix_space=False, use_regex=False)
    vocabulary.pre_tokenizer = Sequence([words, bytes_as_letters])
    vocabulary.decoder = decoders.ByteLevel()
    ends = ("<start_of_text>", "<end_of_text>")
    vocabulary.add_special_tokens(list(ends))
    vocabulary.post_processor = TemplateProcessing(
        single=f"{ends[0]} $A {ends[1]}",
        special_tokens=[(end, tokenizer.encoder[end]) for end in ends],
    )
    return vocabulary

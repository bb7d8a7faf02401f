"""Compares the preprocessing of converted models with the families' libraries."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip import tokenizer as texts
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from transformers import SiglipTokenizer

from backends.families import openclip_portable
from backends.families import transformers_models as hf
from backends.folder import detect
from backends.hub_cache import hub_snapshot
from backends.model import EncodeParams, InputProcessor, ModelOptions
from backends.preprocessing import siglip1_tokens
from backends.preprocessing.loaders import read_preparation
from backends.preprocessing.pixels import Preprocess
from backends.preprocessing.tokens import Padding
from errors import ConversionError
from tests.golden_cases import GOLDEN, text_cases
from tests.hub_models import make_tower

ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz' ",
    "ABCxyzÄÖÜßéñİıſﬁ’“”…—–_-.,;:!?()[]{}<>&#@/\\|~^*+=%$€ ",  # noqa: RUF001 - as people type
    "漢字かなカナ한국어العربيةעבריתไทยहिन्दी ",
    "0123456789½²٣४ ",
    "\t\n\r\x0b\u00a0\u2003\u200b\u200d\ufeff ",
    "😀👩‍👩‍👧🏳️‍🌈é‍ ",
]
SAYINGS = [
    "",
    "it's we're I'LL they'd DON'T can't've",
    "&amp;lt;b&amp;gt; &quot;x&quot; &#39; &nbsp;",
    "â€œmojibakeâ€\x9d schÃ¶n",
    "a<start_of_text>b <end_of_text> c",
    "word " * 200,
    "x" * 500,
]


def sayings() -> list[str]:
    """Return texts of every kind, among them random ones from a fixed seed."""
    generator = random.Random(3)
    mixed = ["".join(generator.choices("".join(ALPHABETS), k=60)) for _ in range(150)]
    plain = ["".join(generator.choices(one, k=40)) for one in ALPHABETS for _ in range(15)]
    recorded = [case.content for case in text_cases("openclip", "trained")]
    return [*SAYINGS, *recorded, *plain, *mixed]


def carried_over(library: Any, padding: Padding, folder: Path) -> InputProcessor:
    """The input processor of a converted model, in place of open_clip's tokenizer."""
    recipe = openclip_portable.describe_recipe(library, padding)
    kind = openclip_portable.save_vocabulary(library, folder)
    return read_preparation(folder, {"kind": kind, **recipe.as_json()}, ModelOptions())


@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
def test_open_clips_own_tokenizer_is_described_exactly(clean: str, tmp_path: Path) -> None:
    library = texts.SimpleTokenizer(clean=clean)
    processor = carried_over(library, Padding("full", 77, 0), tmp_path)

    for text in sayings():
        expected = library([text])[0].tolist()
        assert processor.prepare(text, EncodeParams()).arrays[0].tolist() == expected, repr(text)


@pytest.mark.parametrize("clean", ["whitespace", "canonicalize"])
def test_a_hugging_face_tokenizer_in_open_clip_is_described_exactly(
    clean: str, tmp_path: Path
) -> None:
    tower = make_tower(tmp_path / "xlm")
    library = texts.HFTokenizer(str(tower), context_length=20, clean=clean)
    padding = Padding("full", 20, library.tokenizer.pad_token_id)
    processor = carried_over(library, padding, tmp_path)

    for text in sayings():
        expected = library([text])[0].tolist()
        assert processor.prepare(text, EncodeParams()).arrays[0].tolist() == expected, repr(text)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK"])
@pytest.mark.parametrize("resize_mode", ["shortest", "squash"])
def test_open_clips_transform_is_described_exactly(mode: str, resize_mode: str) -> None:
    config = PreprocessCfg(size=48, resize_mode=resize_mode)
    *steps, to_tensor, _ = image_transform_v2(config, is_train=False).transforms
    preprocess = Preprocess(openclip_portable.describe_geometry(config))
    for width, height in [(64, 48), (48, 48), (101, 60), (60, 101), (7, 33), (500, 499)]:
        levels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = Image.fromarray(levels).convert("L" if mode == "I;16" else mode).convert(mode)
        expected = image
        for step in steps:
            expected = step(expected)
        pixels = torch.from_numpy(preprocess(image))
        torch.testing.assert_close(pixels.float() / 255, to_tensor(expected))


SIGLIP1_SAYINGS = [
    *("a </s> b", "</s>", "<unk> x", "x<unk></s>", " </s>a", "\u2581 \u2581a", "a_b", "A-B c.d"),
    *("word " * 62 + "</s>", "word " * 63, "a " * 62, "a " * 63, "a " * 64, "</s> word " * 70),
]


@pytest.mark.filterwarnings("ignore:This sequence already has")
def test_siglip_1s_tokenizer_is_described_exactly(tmp_path: Path) -> None:
    folder = detect(GOLDEN / "siglip1")
    library = SiglipTokenizer.from_pretrained(hub_snapshot(folder.part("siglip"), folder.hub_name))
    hf.save_vocabulary(library, tmp_path)
    tokenizer = siglip1_tokens.read_tokenizer(tmp_path, 64)

    for text in [*sayings(), *SIGLIP1_SAYINGS]:
        expected = library(text, truncation=True, max_length=64)["input_ids"]
        assert tokenizer(text).ids == expected, repr(text)


def test_what_cannot_be_described_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="mode 'longest'"):
        openclip_portable.describe_geometry(PreprocessCfg(resize_mode="longest"))
    with pytest.raises(ConversionError, match="SimpleTokenizer"):
        openclip_portable.save_vocabulary(texts.SimpleTokenizer(reduction_mask="simple"), tmp_path)
    with pytest.raises(ConversionError, match="needs transformers"):
        hf.save_vocabulary(object(), tmp_path)

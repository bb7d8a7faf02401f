"""Writes the demo model's folder, in the layout of sentence-transformers, with its tokenizer.

It does not know scenes or training.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPImageProcessor, CLIPTokenizer

MODELS = Path(__file__).parent / "models"
MAX_TOKENS = 77
MERGES = 600

_WORD_END = "</w>"
_SPECIAL = ["<|startoftext|>", "<|endoftext|>"]
_MODULES = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.CLIPModel"}]
_ABOUT = {
    "demo": True,
    "description": "A small CLIP that knows drawn shapes only, made by `python -m demo.train`.",
}


def make_tokenizer(captions: Iterable[str]) -> Any:
    """Train a CLIPTokenizer (byte-pair encoding) on captions.

    Its vocabulary has every byte, inside and at the end of words, so that no text has unknown
    tokens: CLIP's unknown token is the end token.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _learn_merges(captions, alphabet)
    tokens = [*alphabet, *(byte + _WORD_END for byte in alphabet), *map("".join, merges), *_SPECIAL]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def _learn_merges(captions: Iterable[str], alphabet: list[str]) -> list[tuple[str, str]]:
    learner = Tokenizer(models.BPE(end_of_word_suffix=_WORD_END))
    blank = CLIPTokenizer().backend_tokenizer
    learner.normalizer, learner.pre_tokenizer = blank.normalizer, blank.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + MERGES,
        initial_alphabet=alphabet,
        end_of_word_suffix=_WORD_END,
        show_progress=False,
    )
    learner.train_from_iterator(captions, trainer)
    learned = json.loads(learner.to_str())["model"]["merges"][:MERGES]
    return [(first, second) for first, second in learned]


def save(model: Any, tokenizer: Any, side_px: int, folder: Path = MODELS) -> None:
    """Write the model folder; both parts of the layout share the same files."""
    shutil.rmtree(folder, ignore_errors=True)
    clip = folder / "clip"
    for part in (model, tokenizer, _image_processor(side_px)):
        part.save_pretrained(clip)
    _write_json(clip / "modules.json", _MODULES)
    (folder / "text").symlink_to("clip")
    (folder / "trust_remote_code").write_text("False")
    _write_json(folder / "demo.json", _ABOUT)


def _image_processor(side_px: int) -> Any:
    return CLIPImageProcessor(
        size={"shortest_edge": side_px}, crop_size={"height": side_px, "width": side_px}
    )


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")

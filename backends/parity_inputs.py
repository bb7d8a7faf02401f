"""The inputs of parity checks: a fixed set of texts, images and pairs of many kinds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from PIL import Image

from backends.model import EncodeParams, InputProcessor, Modality, NetworkInStages, Pair, Tower
from errors import InvalidInputError

_MODES = ("RGB", "RGBA", "L")
_TEXTS = (
    "a photo of a cat",
    "A Cat, sitting on a MAT; isn't it?",
    "",
    "  spaces\tand\nlines  ",
    "Größe, naïveté, Ελληνικά, кириллица, 日本語, हिन्दी, العربية",
    "emoji 😀👩‍👩‍👧 and signs: €, ½, ﬁ, №, <b>&amp;amp;</b>, snake_case, </s>, [SEP]",
    "3.14159 1,000,000 x=y*z #hashtag @name https://example.org/?q=1",
    "ΟΔΟΣ ΣΟΦΟΣ İstanbul STRASSE",
    " ".join(map(str, range(1500))),  # longer than the maximum of most models
)
# Maximum number of tokens of all pairs together. Models that read up to 512 tokens compute all
# pairs. For other models the longest pairs are left out, as each pair would take a large model many
# seconds.
_MAX_TOKENS = 4500

# Maximum number of characters of a text for a network in stages. The whole longest text would take
# minutes, and more memory than the weights of a stage.
_CHARS_IN_STAGES = 1000


def parity_inputs(modality: Modality, tower: Tower, max_cost: int) -> Sequence[Any]:
    """Return all texts, many pairs, or images with a total cost of at most `max_cost`.

    Texts and pairs are left out if the model refuses them because a token has no embedding.
    """
    processor = tower.processor
    if modality == "image":
        return _affordable(_drawn(), processor, max_cost)
    if modality == "pair":
        readable = [pair for pair in _pairs() if _is_readable(pair, processor)]
        return _affordable(readable, processor, _MAX_TOKENS)
    texts: Sequence[str] = _TEXTS
    if isinstance(tower.network, NetworkInStages):
        texts = [text[:_CHARS_IN_STAGES] for text in texts]
    return [text for text in texts if _is_readable(text, processor)]


def _is_readable(content: Any, processor: InputProcessor) -> bool:
    params = processor.resolve(EncodeParams())
    try:
        for part in processor.split(content, params).items:
            processor.prepare(part, params)
    except InvalidInputError:
        return False
    return True


def _affordable(inputs: Sequence[Any], processor: InputProcessor, max_cost: int) -> list[Any]:
    """Return the first inputs, as many as have a total cost of at most `max_cost`."""
    costs = accumulate(processor.prepare(one, EncodeParams()).cost for one in inputs)
    return [one for one, cost in zip(inputs, costs, strict=True) if cost <= max_cost]


def _pairs() -> list[Pair]:
    """Return pairs of short texts, then pairs with the long text; the longest pairs come last."""
    *short, long = _TEXTS
    pairs = [Pair(text, one) for at, text in enumerate(short) for one in short[at % 2 :: 2]]
    return [*pairs, Pair(short[0], long), Pair(long, short[1]), Pair(long, long)]


def _drawn() -> list[Image.Image]:
    """Draw images of noise and of soft colours, in many sizes and colour modes."""
    random = np.random.default_rng(0)
    shapes: list[Image.Image] = []
    for number, (width, height) in enumerate(
        [(900, 200), (300, 900), (640, 480), (64, 48), (223, 225), (500, 501)]
    ):
        grain = (height, width) if number % 2 else (6, 8)
        values = random.integers(0, 256, (*grain, 4), dtype=np.uint8)
        shapes.append(Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC))
    in_modes = [
        image.convert(_MODES[(number + turn) % len(_MODES)])  # the first images cover all modes
        for turn in range(len(_MODES))
        for number, image in enumerate(shapes)
    ]
    return [*in_modes, in_modes[0].quantize(16), in_modes[0].convert("1")]

"""What proofs of a conversion embed: texts and pictures of many kinds, always the same."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from PIL import Image

from backends.model import Modality, NetworkInStages, Preparation, Shaping, Tower
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
    " ".join(map(str, range(1500))),  # longer than any of these models reads
)

# Of a text, to a network so large that it is in stages: all of the last one would take minutes, and
# more memory than a stage.
_CHARS_IN_STAGES = 1000


def proof_inputs(modality: Modality, tower: Tower, most_cost: int) -> Sequence[Any]:
    """Return texts, or as many pictures as cost no more together, in the preparation's unit.

    A text with tokens that the model has no embedding for is no input of it.
    """
    if modality == "image":
        return _pictures(tower.preparation, most_cost)
    texts: Sequence[str] = _TEXTS
    if isinstance(tower.network, NetworkInStages):
        texts = [text[:_CHARS_IN_STAGES] for text in texts]
    return [text for text in texts if _is_readable(text, tower.preparation)]


def _is_readable(text: str, preparation: Preparation) -> bool:
    shaping = preparation.reduce(Shaping())
    try:
        for part in preparation.split(text, shaping).items:
            preparation.prepare(part, shaping)
    except InvalidInputError:
        return False
    return True


def _pictures(preparation: Preparation, most_cost: int) -> Sequence[Image.Image]:
    """Draw noise and soft colours in many shapes and modes; always the same, as many as pay."""
    pictures = _drawn()
    costs = accumulate(preparation.prepare(picture, Shaping()).cost for picture in pictures)
    return [picture for picture, cost in zip(pictures, costs, strict=True) if cost <= most_cost]


def _drawn() -> list[Image.Image]:
    random = np.random.default_rng(0)
    shapes: list[Image.Image] = []
    for number, (width, height) in enumerate(
        [(900, 200), (300, 900), (640, 480), (64, 48), (223, 225), (500, 501)]
    ):
        grain = (height, width) if number % 2 else (6, 8)
        values = random.integers(0, 256, (*grain, 4), dtype=np.uint8)
        shapes.append(Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC))
    in_modes = [
        picture.convert(_MODES[(number + turn) % len(_MODES)])  # the first ones have them all
        for turn in range(len(_MODES))
        for number, picture in enumerate(shapes)
    ]
    return [*in_modes, in_modes[0].quantize(16), in_modes[0].convert("1")]

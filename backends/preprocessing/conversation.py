"""Wraps a text in a chat model's conversation and tokenizes it.

The conversion renders the model's chat template once and stores the strings before and after the
input, so serving needs no template engine.

Source of the handling of empty and of long texts: the reference's Qwen3-VL-Embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from backends.model import Arrays, EncodeParams, ModelInput, ModelOptions
from backends.preprocessing.tokens import TextRecipe, Tokenize, Tokenizer, TokenProcessor
from backends.preprocessing.vocabulary import VOCABULARY, read_vocabulary

_INSTEAD_OF_NOTHING = "NULL"


@dataclass(frozen=True)
class Frame:
    """The text of a conversation before and after an input; stored in `model.json`.

    Attributes:
        before: the instruction and the beginning of the user message.
        after: the end of the user message, up to where the model's answer would begin.
    """

    before: str
    after: str

    def as_json(self) -> dict[str, object]:
        """Return the parameters as JSON types."""
        return asdict(self)

    def around(self, text: str) -> str:
        """Return the whole conversation with a text as the input."""
        return f"{self.before}{text or _INSTEAD_OF_NOTHING}{self.after}"


class ConversationProcessor(TokenProcessor):
    """Tokenizes and pads conversations; equal padded lengths share batches.

    Args:
        tokenize: the family's tokenizer; it truncates a long conversation at its end.
        recipe: normalization and padding of texts.
        frame: the text of the conversation before and after an input.
    """

    def __init__(self, tokenize: Tokenize, recipe: TextRecipe, frame: Frame) -> None:
        super().__init__(tokenize, recipe.padding)
        self._frame = frame
        self._around = len(tokenize(frame.around("")).ids)

    @override
    def estimate(self, text: str) -> int:
        """Estimate the number of tokens, with frame and padding, from the characters."""
        tokens = self._around + super().estimate(text)
        return min(tokens, self._padding.longest)

    @override
    def prepare(self, text: str, params: EncodeParams) -> ModelInput:
        """Return ids [length], positions [3, length] and the index of the last token; all int64.

        A position has three coordinates, which images need; for texts all three are equal.
        """
        ids, truncated = self._tokenize(self._frame.around(text))
        self._limit.check(ids)
        (padded,) = self._padding(ids)
        length = len(padded)
        places = np.broadcast_to(np.arange(length), (3, length))
        arrays: Arrays = (padded, places, np.array(len(ids) - 1))
        return ModelInput(arrays, bucket=length, cost=length, tokens=len(ids), truncated=truncated)


def read(
    folder: Path, described: Mapping[str, Any], _options: ModelOptions
) -> ConversationProcessor:
    """Load the input processor that a converted model describes."""
    recipe = TextRecipe.from_json(described)
    vocabulary = read_vocabulary(folder / VOCABULARY)
    frame = Frame(**described["frame"])
    return ConversationProcessor(Tokenizer(vocabulary, recipe), recipe, frame)

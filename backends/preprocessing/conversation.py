"""From a text to the ids of a conversation: what a chat model has learnt to find around an input.

The conversion renders the model's chat template once; here are the strings that stood before and
after the input, so serving needs no template engine.

Source of the empty text, and of what is cut of a long one: the reference's Qwen3-VL-Embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Vocabulary
from typing_extensions import override

from backends.model import Arrays, EncodeParams, ModelInput, ModelOptions
from backends.preprocessing.tokens import (
    VOCABULARY,
    TextRecipe,
    Tokenize,
    Tokenizer,
    TokenProcessor,
)

_INSTEAD_OF_NOTHING = "NULL"


@dataclass(frozen=True)
class Frame:
    """What stands around an input; it can be written as JSON.

    Attributes:
        before: an input, its role and what the model is told to do with it.
        after: it, up to where the model would answer.
    """

    before: str
    after: str

    def as_json(self) -> dict[str, object]:
        """Describe it in JSON's types."""
        return asdict(self)

    def around(self, text: str) -> str:
        """Return the conversation about a text."""
        return f"{self.before}{text or _INSTEAD_OF_NOTHING}{self.after}"


class ConversationProcessor(TokenProcessor):
    """Tokenizes and pads conversations; those of one padded length share a pass.

    Args:
        tokenize: the family's tokenizer. Of a text that is too long it cuts the end off, the
            frame's first.
        recipe: how texts become ids.
        frame: what stands around a text.
    """

    def __init__(self, tokenize: Tokenize, recipe: TextRecipe, frame: Frame) -> None:
        super().__init__(tokenize, recipe.padding)
        self._frame = frame
        self._around = len(tokenize(frame.around("")).ids)

    @override
    def estimate(self, text: str) -> int:
        """Guess the padded tokens from the number of characters, and add the frame's."""
        tokens = self._around + super().estimate(text)
        return min(tokens, self._padding.longest)

    @override
    def prepare(self, text: str, params: EncodeParams) -> ModelInput:
        """Return ids [length], the places of tokens [3, length], and that of the last; all int64.

        A model of images counts tokens in three axes; those of a text are equal.
        """
        ids, truncated = self._tokenize(self._frame.around(text))
        (padded,) = self._padding(ids)
        length = len(padded)
        places = np.broadcast_to(np.arange(length), (3, length))
        arrays: Arrays = (padded, places, np.array(len(ids) - 1))
        return ModelInput(arrays, bucket=length, cost=length, tokens=len(ids), truncated=truncated)


def read(
    folder: Path, described: Mapping[str, Any], _options: ModelOptions
) -> ConversationProcessor:
    """Make the preparation of a converted model's folder."""
    recipe = TextRecipe.of_json(described)
    vocabulary = Vocabulary.from_file(str(folder / VOCABULARY))
    frame = Frame(**described["frame"])
    return ConversationProcessor(Tokenizer(vocabulary, recipe), recipe, frame)

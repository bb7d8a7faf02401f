"""From texts to batches of token ids: each family's way of padding, which decides its vectors."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

TokenIds: TypeAlias = list[list[int]]
# Rows of the input and their ids, [rows, length] int64; together they cover every row once.
Collate: TypeAlias = Callable[[TokenIds], list[tuple[list[int], Tensor]]]


# No vocabulary's tokens are so long on average, and no model reads more than its places. A
# tokenizer reads on to the end all the same: a request of 32 texts of 100,000 emojis took 23 s,
# and every search waited meanwhile.
CHARS_PER_TOKEN = 64


def beginning(text: str, tokens: int) -> str:
    """Return what the first tokens of a text can be made of; spaces may vanish and do not count."""
    chars = tokens * CHARS_PER_TOKEN
    if len(text) <= chars:
        return text
    spaces = re.finditer(r"\s+", text)
    end = chars
    for run in spaces:
        if run.start() >= end:
            break
        end += run.end() - run.start()
    return text[:end]


def is_longer(tokenizer: Any, text: str, length: int) -> bool:
    """Tell whether a text has more tokens than `length`, by giving it room for one more."""
    return len(tokenizer(text, truncation=True, max_length=length + 1)["input_ids"]) > length


class Tokenizer:
    """A transformers tokenizer that cuts at a length, with the end token kept, and counts the cuts.

    Args:
        tokenizer: the transformers tokenizer.
        max_length: most tokens of a text.
        clean: what is done to a text before.
    """

    def __init__(self, tokenizer: Any, max_length: int, clean: Callable[[str], str] = str) -> None:
        self.truncated_texts = 0
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._clean = clean

    def __call__(self, texts: Sequence[str]) -> TokenIds:
        """Tokenise."""
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


def pad_to(length: int, token_id: int) -> Collate:
    """Pad every text to one length: for a tower that has learnt from padded texts."""

    def collate(ids: TokenIds) -> list[tuple[list[int], Tensor]]:
        return [(list(range(len(ids))), _padded(ids, length, token_id))]

    return collate


def pad_to_longest(token_id: int) -> Collate:
    """Pad to the longest of the batch: for a tower that is blind to what follows the end token."""

    def collate(ids: TokenIds) -> list[tuple[list[int], Tensor]]:
        return [(list(range(len(ids))), _padded(ids, max(map(len, ids)), token_id))]

    return collate


def group_equal_lengths(ids: TokenIds) -> list[tuple[list[int], Tensor]]:
    """Pad nothing: for a tower that is not blind to padding, asked to see each text alone."""
    rows_by_length: dict[int, list[int]] = defaultdict(list)
    for row, row_ids in enumerate(ids):
        rows_by_length[len(row_ids)].append(row)
    return [(rows, torch.tensor([ids[row] for row in rows])) for rows in rows_by_length.values()]


def _padded(ids: TokenIds, length: int, token_id: int) -> Tensor:
    return torch.tensor([row + [token_id] * (length - len(row)) for row in ids])

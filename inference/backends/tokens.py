"""From texts to batches of token ids: each family's way of padding, which decides its vectors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

TokenIds: TypeAlias = list[list[int]]
# Rows of the input and their ids, [rows, length] int64; together they cover every row once.
Collate: TypeAlias = Callable[[TokenIds], list[tuple[list[int], Tensor]]]
Tokenize: TypeAlias = Callable[[Sequence[str]], TokenIds]


def tokenize_by(tokenizer: Any, max_length: int) -> Tokenize:
    """Tokenise by a transformers tokenizer, cutting at `max_length` with the end token kept."""

    def tokenize(texts: Sequence[str]) -> TokenIds:
        encoded = tokenizer(
            list(texts), truncation=True, max_length=max_length, return_attention_mask=False
        )
        return list(encoded["input_ids"])

    return tokenize


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

"""Finds the number of token embeddings of any text network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from backends.model import EncodeParams, InputProcessor, Modality, Pair

_TEXT = "a photo of 2 cats"  # its ids equal neither positions nor token types
_READ: Mapping[Modality, str | Pair] = {"text": _TEXT, "pair": Pair(_TEXT, _TEXT)}


class _FoundError(Exception):
    """Raised to end the forward pass when the embedding is found."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows


@torch.inference_mode()
def token_rows(
    modality: Modality, module: nn.Module, processor: InputProcessor, device: str
) -> int | None:
    """Find the embedding module that receives the ids of a text or a pair.

    Returns:
        The number of rows of the embedding; None if none is found, or if there are no ids.
    """
    if modality not in _READ:
        return None
    params = processor.resolve(EncodeParams())
    part = processor.split(_READ[modality], params).items[0]
    arrays = processor.collate([processor.prepare(part, params)])
    given = [torch.from_numpy(array).to(device) for array in arrays]
    ids = [one.flatten() for one in given if not one.is_floating_point() and one.max() > 1]

    def look(embedding: nn.Module, arguments: tuple[Any, ...]) -> None:
        asked = arguments[0] if arguments else None
        if isinstance(asked, Tensor) and any(torch.equal(asked.flatten(), one) for one in ids):
            raise _FoundError(embedding.get_parameter("weight").shape[0])

    kinds = (nn.Embedding, nn.EmbeddingBag)
    hooks = [
        one.register_forward_pre_hook(look) for one in module.modules() if isinstance(one, kinds)
    ]
    try:
        module(*given)
    except _FoundError as found:
        return found.rows
    finally:
        for hook in hooks:
            hook.remove()
    return None

"""Weights that vectors depend on must come from the model folder, whichever library loads them.

transformers fills what a checkpoint lacks with random numbers, and tells it in a log. Here such
weights become NaN, as do those of another shape. What is not finite when all is loaded harms a
model only where its vectors become NaN as well: BERT's pooler may be missing, its last layer may
not. A pass over a few inputs shows it, and only a model with such weights takes one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from backends.embed import embed
from backends.model import Modality, Tower
from backends.parity_inputs import proof_inputs
from backends.runtimes.torch.embeddings import token_rows
from backends.runtimes.torch.runtime import TorchNetwork
from backends.runtimes.torch.towers import TorchModel, TorchTower
from backends.weights import MISSING, NAMED, NOT_FINITE, do_not_fit, misshapen, strange_prefix

_MOST_COST, _INPUTS = 20, 3  # of the pass that shows whether vectors depend on a weight


class Faults:
    """What was wrong with the weights of networks when they were loaded."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}  # as the checkpoint calls it, by id
        self._faults: dict[int, str] = {}

    def note(self, network: nn.Module, faults: Mapping[str, str]) -> None:
        """Note the faults of a network's weights, by name, and make these weights NaN."""
        weights = network.state_dict(keep_vars=True)
        self._names |= {id(weight): name for name, weight in weights.items()}
        for name in faults.keys() & weights.keys():
            weight = weights[name]
            self._faults[id(weight)] = faults[name]
            if weight.is_floating_point():  # the others are counted anew, such as position_ids
                weight.data.fill_(torch.nan)

    def sentence(self, name: str, weight: Tensor) -> str:
        """Say what is wrong with a weight, which its tower calls by this name."""
        fault = self._faults.get(id(weight), NOT_FINITE)
        return f"{self._names.get(id(weight), name)} {fault}"


def load_sound(load: Callable[[], TorchModel]) -> TorchModel:
    """Load a family's model; no vector depends on a weight that the folder does not hold.

    Nor on an embedding that is none: its texts know how many there are.

    Raises:
        ValueError: one does; the message names the first few.
    """
    with checkpoints_noted() as faults:
        loaded = load()
    for modality, tower in loaded.towers.items():
        rows = token_rows(modality, tower.module, tower.processor, loaded.info.device)
        if rows is not None:
            tower.processor.limit_ids(rows)
    for modality, tower in loaded.towers.items():
        _refuse_unfit(modality, tower, loaded.info.device, faults)
    return loaded


@contextmanager
def checkpoints_noted() -> Iterator[Faults]:
    """Note what does not fit of every checkpoint that is loaded meanwhile, by whichever library.

    Libraries that load by transformers pass on neither what it says nor a way to ask for it, and
    torch's strict loading refuses what no vector depends on.
    """
    faults = Faults()
    by_transformers = PreTrainedModel.from_pretrained.__func__
    by_torch = nn.Module.load_state_dict

    def from_pretrained(kind: Any, *args: Any, **options: Any) -> Any:
        return _from_pretrained(faults, partial(by_transformers, kind, *args), **options)

    def load_state_dict(network: nn.Module, stored: Any, strict: bool = True, **more: Any) -> Any:
        own = network.state_dict()
        if prefix := strange_prefix(own.keys() - stored.keys(), stored.keys() - own.keys()):
            stored = {name.removeprefix(prefix): weight for name, weight in stored.items()}
        misfits = _misfits(own, stored)
        fitting = {name: weight for name, weight in stored.items() if name not in misfits}
        told = by_torch(network, fitting, strict=False, **more)
        if strict and told.unexpected_keys:
            raise ValueError(do_not_fit([f"{name} is unknown" for name in told.unexpected_keys]))
        faults.note(network, misfits)
        told.missing_keys.clear()  # whoever asked would raise
        return told

    PreTrainedModel.from_pretrained = classmethod(from_pretrained)
    nn.Module.load_state_dict = load_state_dict  # type: ignore[method-assign, assignment]
    try:
        yield faults
    finally:
        PreTrainedModel.from_pretrained = classmethod(by_transformers)
        nn.Module.load_state_dict = by_torch  # type: ignore[method-assign]


def _misfits(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> dict[str, str]:
    """Return of a network's weights those that a checkpoint lacks, or has in another shape."""
    missing = dict.fromkeys(own.keys() - stored.keys(), MISSING)
    shapes = {
        name: (np.shape(stored[name]), np.shape(own[name])) for name in own.keys() & stored.keys()
    }
    return missing | {name: misshapen(*both) for name, both in shapes.items() if both[0] != both[1]}


def _from_pretrained(
    faults: Faults, load: Callable[..., Any], *, output_loading_info: bool = False, **options: Any
) -> Any:
    # Of a checkpoint whose shapes differ nothing else would say which.
    told_of = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    network, told = load(**{**options, **told_of})
    own = f"{network.base_model_prefix}."
    if prefix := strange_prefix(told["missing_keys"], told["unexpected_keys"], own):
        del network  # not both in memory
        network, told = load(**{**options, **told_of, "key_mapping": {f"^{re.escape(prefix)}": ""}})
    misfits = dict.fromkeys(told["missing_keys"], MISSING)
    misfits |= {name: misshapen(*shapes) for name, *shapes in told["mismatched_keys"]}
    faults.note(network, misfits)
    if misfits:  # saved anew, it lacks what it lacked
        network.save_pretrained = partial(_save_without, network, misfits.keys())
    return (network, told) if output_loading_info else network


def _save_without(network: Any, left_out: Any, folder: Any, **options: Any) -> None:
    weights = {name: one for name, one in network.state_dict().items() if name not in left_out}
    type(network).save_pretrained(network, folder, **{"state_dict": weights, **options})


def _refuse_unfit(modality: Modality, tower: TorchTower, device: str, faults: Faults) -> None:
    unfit = _unfit(tower.module)
    if not unfit or not _matter(modality, tower, device, unfit):
        return
    # Nothing serves this model any more: its weights may become what tells them apart.
    for weight in unfit.values():
        weight.data.zero_()
    culprits: list[str] = []
    for name, weight in unfit.items():
        if _matter(modality, tower, device, {name: weight}):
            culprits.append(faults.sentence(name, weight))
        weight.data.zero_()
        if len(culprits) > NAMED:
            break
    raise ValueError(do_not_fit(culprits))


def _unfit(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights that are not finite; a buffer may hold infinities, as masks do."""
    buffers = {id(buffer) for buffer in module.buffers()}
    weights = module.state_dict(keep_vars=True)
    return {
        name: weight
        for name, weight in weights.items()
        if weight.is_floating_point()
        and weight.numel()
        and not _is_fit(weight.detach(), may_be_infinite=id(weight) in buffers)
    }


def _is_fit(weight: Tensor, *, may_be_infinite: bool) -> bool:
    ends = torch.stack(torch.aminmax(weight))  # a NaN is both
    return not bool(ends.isnan().any() if may_be_infinite else (~ends.isfinite()).any())


def _matter(
    modality: Modality, tower: TorchTower, device: str, unfit: Mapping[str, Tensor]
) -> bool:
    """Make weights NaN, and tell whether vectors become NaN."""
    for weight in unfit.values():
        weight.data.fill_(torch.nan)
    unproven = Tower(tower.processor, TorchNetwork(tower.module, device))
    rows = embed(unproven, proof_inputs(modality, unproven, _MOST_COST)[:_INPUTS])
    return not bool(np.isfinite(rows).all())

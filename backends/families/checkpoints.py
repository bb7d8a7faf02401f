"""Refuses a model whose vectors depend on weights that its folder does not hold.

transformers fills missing weights with random numbers, and only logs a warning. Here, missing
weights and weights of a wrong shape are set to NaN. A forward pass over a few inputs then shows
whether vectors depend on these weights: a missing pooler of BERT is harmless, a missing last layer
is not. The forward pass runs only for models that have weights that are not finite.
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
from backends.parity_inputs import parity_inputs
from backends.runtimes.torch.embeddings import token_rows
from backends.runtimes.torch.runtime import TorchNetwork
from backends.runtimes.torch.towers import TorchModel, TorchTower
from backends.weights import MISSING, NAMED, NOT_FINITE, do_not_fit, misshapen, strange_prefix

_MAX_COST, _INPUTS = 20, 3  # limits of the forward pass: cost of the inputs, and their number


class Faults:
    """Collects faults of weights, such as a wrong shape, while networks are loaded."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}  # id of a tensor -> name of the weight in the checkpoint
        self._faults: dict[int, str] = {}

    def note(self, network: nn.Module, faults: Mapping[str, str]) -> None:
        """Record faults of weights by name; set these weights to NaN, which `load_sound` finds."""
        weights = network.state_dict(keep_vars=True)
        self._names |= {id(weight): name for name, weight in weights.items()}
        for name in faults.keys() & weights.keys():
            weight = weights[name]
            self._faults[id(weight)] = faults[name]
            if weight.is_floating_point():  # integers, such as position_ids, are not stored
                weight.data.fill_(torch.nan)

    def describe(self, name: str, weight: Tensor) -> str:
        """Return the name of a weight in its checkpoint, and its fault, for an error message.

        `name`, its name in the tower, stands for it if no checkpoint holds the weight.
        """
        fault = self._faults.get(id(weight), NOT_FINITE)
        return f"{self._names.get(id(weight), name)} {fault}"


def load_sound(load: Callable[[], TorchModel]) -> TorchModel:
    """Load a family's model, and check that no vector depends on a missing weight.

    Also set the number of token embeddings in the input processors, with `limit_ids`.

    Raises:
        ValueError: a vector depends on missing weights; the message names the first few.
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
    """Let checkpoints load with missing or misshapen weights, which are set to NaN and recorded.

    The caller then refuses only faults that reach a vector. Unknown weights still fail.

    This context patches the libraries' loading functions, for two reasons. Libraries that call
    transformers do not return its loading report. torch's strict loading also refuses a model if
    the faulty weights affect no vector.
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
        report = by_torch(network, fitting, strict=False, **more)
        if strict and report.unexpected_keys:
            raise ValueError(do_not_fit([f"{name} is unknown" for name in report.unexpected_keys]))
        faults.note(network, misfits)
        report.missing_keys.clear()  # otherwise the caller raises an error
        return report

    PreTrainedModel.from_pretrained = classmethod(from_pretrained)
    nn.Module.load_state_dict = load_state_dict  # type: ignore[method-assign, assignment]
    try:
        yield faults
    finally:
        PreTrainedModel.from_pretrained = classmethod(by_transformers)
        nn.Module.load_state_dict = by_torch  # type: ignore[method-assign]


def _misfits(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> dict[str, str]:
    """Return, by name, the faults of weights that a checkpoint lacks or has in a wrong shape."""
    missing = dict.fromkeys(own.keys() - stored.keys(), MISSING)
    shapes = {
        name: (np.shape(stored[name]), np.shape(own[name])) for name in own.keys() & stored.keys()
    }
    return missing | {name: misshapen(*both) for name, both in shapes.items() if both[0] != both[1]}


def _from_pretrained(
    faults: Faults, load: Callable[..., Any], *, output_loading_info: bool = False, **options: Any
) -> Any:
    # Only this option reports which weights have another shape.
    with_report = {"output_loading_info": True, "ignore_mismatched_sizes": True}
    network, report = load(**{**options, **with_report})
    own = f"{network.base_model_prefix}."
    if prefix := strange_prefix(report["missing_keys"], report["unexpected_keys"], own):
        del network  # free its memory before loading again
        network, report = load(
            **{**options, **with_report, "key_mapping": {f"^{re.escape(prefix)}": ""}}
        )
    misfits = dict.fromkeys(report["missing_keys"], MISSING)
    misfits |= {name: misshapen(*shapes) for name, *shapes in report["mismatched_keys"]}
    faults.note(network, misfits)
    if misfits:  # a copy that is saved leaves these weights out too
        network.save_pretrained = partial(_save_without, network, misfits.keys())
    return (network, report) if output_loading_info else network


def _save_without(network: Any, left_out: Any, folder: Any, **options: Any) -> None:
    weights = {name: one for name, one in network.state_dict().items() if name not in left_out}
    type(network).save_pretrained(network, folder, **{"state_dict": weights, **options})


def _refuse_unfit(modality: Modality, tower: TorchTower, device: str, faults: Faults) -> None:
    unfit = _unfit(tower.module)
    if not unfit or not _matter(modality, tower, device, unfit):
        return
    # This model is refused anyway, so its weights may be overwritten to find the faulty ones.
    for weight in unfit.values():
        weight.data.zero_()
    culprits: list[str] = []
    for name, weight in unfit.items():
        if _matter(modality, tower, device, {name: weight}):
            culprits.append(faults.describe(name, weight))
        weight.data.zero_()
        if len(culprits) > NAMED:
            break
    raise ValueError(do_not_fit(culprits))


def _unfit(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights that are not finite; buffers, such as masks, may be infinite."""
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
    ends = torch.stack(torch.aminmax(weight))  # if any value is NaN, minimum and maximum are NaN
    return not bool(ends.isnan().any() if may_be_infinite else (~ends.isfinite()).any())


def _matter(
    modality: Modality, tower: TorchTower, device: str, unfit: Mapping[str, Tensor]
) -> bool:
    """Set weights to NaN; return whether any vector of a few inputs is then not finite."""
    for weight in unfit.values():
        weight.data.fill_(torch.nan)
    eager = Tower(tower.processor, TorchNetwork(tower.module, device))
    rows = embed(eager, parity_inputs(modality, eager, _MAX_COST)[:_INPUTS])
    return not bool(np.isfinite(rows).all())

"""The network of Qwen3-VL-Embedding, divided into stages whose weights can be loaded alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Qwen3VLModel

from backends.families.qwen3_vl_checkpoint import Checkpoint
from backends.families.qwen3_vl_stages import (
    LANGUAGE_LAYERS,
    VISION_LAYERS,
    End,
    Join,
    Language,
    Patches,
    Places,
    Start,
    Vision,
    deep_names,
)
from backends.model import Arrays, ModelOptions
from backends.preprocessing.blocks import Around, Blocks, Grid
from backends.runtimes.torch.stages import TorchStage
from backends.runtimes.torch.towers import place, torch_dtype


class Network:
    """The model's network, and its stages.

    Args:
        config: the model's configuration.
        checkpoint: the model's weights.
        processor: transformers' image processor.
        options: the device, the precision, and whether the weights of all stages or only of the
            current stage are in memory.

    Attributes:
        config: the model's configuration.
        model: transformers' module; without weights if only a stage's are in memory.
    """

    def __init__(
        self, config: Any, checkpoint: Checkpoint, processor: Any, options: ModelOptions
    ) -> None:
        self.config = config
        self._checkpoint, self._processor, self._options = checkpoint, processor, options
        with torch.device("meta"):
            self.model = Qwen3VLModel(config)
        # The stages compute the rotary embedding; it has no weights, so it needs no data here.
        self.model.language_model.rotary_emb = self.model.visual.rotary_pos_emb = nn.Identity()
        self._names = {id(weight): name for name, weight in self.model.named_parameters()}
        checkpoint.drop_prefix(set(self._names.values()))
        if not options.in_stages:
            weights = checkpoint.read({n: one.shape for n, one in self.model.named_parameters()})
            self.model.load_state_dict(weights, assign=True)
            del weights
            place(self.model, options)

    def text_stages(self) -> list[TorchStage]:
        """Return the stages that embed texts."""
        return [self._start(), *self._language(), self._end()]

    def image_stages(self, blocks: Blocks, around: Around) -> list[TorchStage]:
        """Return the stages that embed images; they include all stages that embed texts."""
        start, *rest = self.text_stages()
        return [start, *self._vision(blocks), self._join(around), *rest]

    def _stage(
        self,
        name: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        module: nn.Module,
        examples: Arrays,
        varying: Sequence[Sequence[int]],
    ) -> TorchStage:
        """Return a stage, with the shapes of its inputs and a function that loads its weights.

        Args:
            name: as in `TorchStage`.
            inputs: as in `TorchStage`.
            outputs: as in `TorchStage`.
            module: the module; if it has no weights yet, `TorchStage.bring` loads them.
            examples: as in `TorchStage`.
            varying: for each example, its axes of variable length, except the batch axis.
        """
        shapes = [
            [-1 if axis in {0, *axes} else length for axis, length in enumerate(example.shape)]
            for example, axes in zip(examples, varying, strict=True)
        ]
        bring = partial(self._brought, module)
        return TorchStage(name, inputs, outputs, bring, examples, shapes)

    def _brought(self, module: nn.Module) -> nn.Module:
        if not self._options.in_stages:
            return module.to(self._options.device)  # moves only buffers
        names = {own: self._names[id(weight)] for own, weight in module.named_parameters()}
        shapes = {own: weight.shape for own, weight in module.named_parameters()}
        weights = self._checkpoint.read({name: shapes[own] for own, name in names.items()})
        # The token embeddings keep their stored dtype: the table is as large as many layers, and it
        # is not multiplied but only looked up.
        whole = copy.deepcopy(module)
        dtype = None if isinstance(module, Start) else torch_dtype(self._options)
        given = {own: weights[name].to(dtype or weights[name].dtype) for own, name in names.items()}
        whole.load_state_dict(given, strict=False, assign=True)
        return whole.eval().requires_grad_(requires_grad=False)

    def _start(self) -> TorchStage:
        ids, places = np.ones((2, 7), np.int64), np.ones((2, 3, 7), np.int64)
        return self._stage(
            "start",
            ["ids", "places"],
            ["hidden", "cosines", "sines", *deep_names(self.config)],
            Start(self.model, torch_dtype(self._options)),
            (ids, places),
            [[1], [2]],
        )

    def _language(self) -> Iterator[TorchStage]:
        text, names = self.config.text_config, deep_names(self.config)
        hidden = np.ones((2, 7, text.hidden_size), np.float32)
        angles = np.ones((2, 7, text.head_dim), np.float32)
        for number, layers in enumerate(_parts(text.num_hidden_layers, LANGUAGE_LAYERS)):
            deep = names[layers.start : layers.stop]
            examples = (hidden, angles, angles, *(hidden,) * len(deep))
            yield self._stage(
                f"language-{number:02}",
                ["hidden", "cosines", "sines", *deep],
                ["hidden"],
                Language(self.model, layers),
                examples,
                [[1]] * len(examples),
            )

    def _end(self) -> TorchStage:
        hidden = np.ones((2, 7, self.config.text_config.hidden_size), np.float32)
        examples = (hidden, np.ones(2, np.int64))
        return self._stage(
            "end", ["hidden", "last"], ["vectors"], End(self.model), examples, [[1], []]
        )

    def _vision(self, blocks: Blocks) -> Iterator[TorchStage]:
        vision, grid = self.config.vision_config, Grid(2, 3)
        places, shares = blocks.corners(grid)
        spots = blocks.places(grid)
        pair = [np.stack([one, one]) for one in (places, shares, spots)]
        yield self._stage(
            "places",
            ["corners", "shares", "spots"],
            ["placed", "seen_cosines", "seen_sines"],
            Places(self.model),
            tuple(pair),
            [[1]] * 3,
        )
        around = (2, grid.blocks, blocks.merged**2)
        patches = np.ones((*around, 3 * blocks.patch_px**2), np.uint8)
        seen = np.ones((*around, vision.hidden_size), np.float32)
        angles = np.ones((*around, vision.hidden_size // vision.num_heads), np.float32)
        for number, layers in enumerate(_parts(vision.depth, VISION_LAYERS)):
            is_first = number == 0
            module = Vision(
                self.model, layers, Patches(self.model, self._processor) if is_first else None
            )
            yield self._stage(
                f"vision-{number:02}",
                [*(("patches", "placed") if is_first else ("seen",)), "seen_cosines", "seen_sines"],
                ["seen", *module.names],
                module,
                (*((patches, seen) if is_first else (seen,)), angles, angles),
                [[1]] * (4 if is_first else 3),
            )

    def _join(self, around: Around) -> TorchStage:
        vision, dim = self.config.vision_config, self.config.text_config.hidden_size
        names, blocks = deep_names(self.config), 6
        seen = np.ones((2, blocks, vision.spatial_merge_size**2, vision.hidden_size), np.float32)
        hidden = np.ones((2, len(around.before) + len(around.after), dim), np.float32)
        deep = np.ones((2, blocks, dim), np.float32)
        return self._stage(
            "join",
            ["seen", "hidden", *names],
            ["hidden", *names],
            Join(self.model, len(around.before)),
            (seen, hidden, *(deep,) * len(names)),
            [[1], [], *([1],) * len(names)],
        )


def _parts(layers: int, size: int) -> list[range]:
    return [range(start, min(start + size, layers)) for start in range(0, layers, size)]

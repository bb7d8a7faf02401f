"""The stages of Qwen3-VL: transformers' modules, divided into stages that texts and images share.

    text:   start                               -> language ... -> end
    image:  start -> places -> vision ... -> join -> language ... -> end

Texts and images use the same language network, so its weights are in memory only once. For images,
features from inner vision layers (`deep_0` and so on) are added to the outputs of the first
language layers; for texts these features are 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLTextRotaryEmbedding,
    Qwen3VLVisionRotaryEmbedding,
)
from typing_extensions import override

from backends.runtimes.torch.towers import Normalize, normalize

# Layers of a stage: 0.4 and 0.15 GB of float32 weights in the 2B model.
LANGUAGE_LAYERS, VISION_LAYERS = 2, 3


def deep_names(config: Any) -> list[str]:
    """Return the names of the DeepStack features, one for each of the first language layers."""
    return [f"deep_{level}" for level in range(len(config.vision_config.deepstack_visual_indexes))]


class Start(nn.Module):
    """Looks token embeddings up, and computes rotary position embeddings.

    Inputs: ids [n, length] int64, places (positions) [n, 3, tokens] int64. For a text, `length` and
    `tokens` are equal. For an image, only `tokens` counts the image's own tokens.
    Outputs: hidden [n, length, dim], cosines and sines [n, tokens, head], and for each name of
    `deep_names` zeros [1, 1, dim]: a text has no such features, and those of an image come later.

    Args:
        model: transformers' `Qwen3VLModel`.
        dtype: the dtype to compute in; the embedding table keeps its own dtype.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        super().__init__()
        language = model.language_model
        self.table = language.embed_tokens.weight
        self._dtype = dtype
        self._levels = len(deep_names(model.config))
        rotary = Qwen3VLTextRotaryEmbedding(language.config)  # always float32
        if rotary.rope_type != "default":
            raise ValueError(
                f"its rotary position embeddings are of an unsupported type: {rotary.rope_type}"
            )
        axes = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 1, len(rotary.inv_freq))
        both = rotary.recomposition_frequencies(axes.clone())
        self.register_buffer("_axes", both[..., : len(rotary.inv_freq)].flatten().long())
        self.register_buffer("_frequencies", rotary.inv_freq)

    @override
    def forward(self, ids: Tensor, places: Tensor) -> tuple[Tensor, ...]:
        hidden = nn.functional.embedding(ids, self.table).to(self._dtype)
        of_axes = places.float().index_select(1, self.get_buffer("_axes")).transpose(1, 2)
        angles = of_axes * self.get_buffer("_frequencies")
        angles = torch.cat([angles, angles], dim=-1)
        nothing = torch.zeros((1, 1, hidden.shape[-1]), dtype=self._dtype, device=ids.device)
        deep = (nothing,) * self._levels
        return (hidden, angles.cos().to(self._dtype), angles.sin().to(self._dtype), *deep)


class Places(nn.Module):
    """Interpolates an image's position embeddings, and computes its rotary position embeddings.

    Inputs: corners (the four nearest positions of each patch) [n, blocks, patches, 4], shares
    (their weights) of the same shape, spots (row and column) [n, blocks, patches, 2].
    Outputs: placed [n, blocks, patches, dim], cosines and sines [n, blocks, patches, head].
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        vision = model.visual
        self.table = vision.pos_embed.weight
        self.register_buffer("_frequencies", Qwen3VLVisionRotaryEmbedding(vision.config).inv_freq)

    @override
    def forward(
        self, corners: Tensor, shares: Tensor, spots: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = self.table.dtype
        near = nn.functional.embedding(corners, self.table).float()
        placed = (near * shares[..., None]).sum(dim=-2).to(dtype)
        angles = (spots[..., None].float() * self.get_buffer("_frequencies")).flatten(-2)
        angles = torch.cat([angles, angles], dim=-1)
        return placed, angles.cos().to(dtype), angles.sin().to(dtype)


class Patches(nn.Module):
    """Embeds patches: [n, blocks, patches, values] uint8 -> [n, blocks, patches, dim].

    The model embeds videos, so an image counts as a video of two equal frames.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        self.proj = model.visual.patch_embed.proj
        *_, height, width = self.proj.kernel_size
        values = height * width
        mean, std = list(processor.image_mean), list(processor.image_std)
        self.normalize = Normalize(mean * values, std * values, processor.rescale_factor, (-1,))

    @override
    def forward(self, patches: Tensor) -> Tensor:
        kernel = self.proj.weight.float().sum(dim=2).permute(0, 2, 3, 1).flatten(1)
        dtype = self.proj.weight.dtype
        return nn.functional.linear(
            self.normalize(patches).to(dtype), kernel.to(dtype), self.proj.bias
        )


class Vision(nn.Module):
    """One stage of the vision tower: some of its layers.

    Inputs: hidden states `seen` (for the first stage: patches and placed), cosines and sines; all
    [n, blocks, patches, ...].
    Outputs: `seen`, and for some layers features for the language network [n, blocks, dim].

    Args:
        model: transformers' `Qwen3VLModel`.
        layers: indexes of the layers.
        patches: the patch embedding for the first stage; None for later stages.
    """

    def __init__(self, model: Any, layers: Sequence[int], patches: Patches | None) -> None:
        super().__init__()
        vision = model.visual
        self.patches: nn.Module | None = patches
        self.layers = nn.ModuleList(vision.blocks[layer] for layer in layers)
        levels = {layer: level for level, layer in enumerate(vision.deepstack_visual_indexes)}
        self.levels = [levels.get(layer) for layer in layers]
        self.mergers = nn.ModuleDict(
            {str(level): vision.deepstack_merger_list[level] for level in self._deepstack_levels()}
        )

    def _deepstack_levels(self) -> list[int]:
        return [level for level in self.levels if level is not None]

    @property
    def names(self) -> list[str]:
        """Names of the features that this stage outputs for the language network."""
        return [f"deep_{level}" for level in self._deepstack_levels()]

    @override
    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        if self.patches is None:
            seen, cosines, sines = given
        else:
            patches, placed, cosines, sines = given
            seen = self.patches(patches) + placed
        shape = seen.shape
        states, deep = seen.flatten(1, 2), []
        angles = cosines.flatten(1, 2)[:, :, None].float(), sines.flatten(1, 2)[:, :, None].float()
        layer: Any
        for layer, level in zip(self.layers, self.levels, strict=True):
            states = states + _attend(layer.attn, layer.norm1(states), *angles)
            states = states + layer.mlp(layer.norm2(states))
            if level is not None:
                deep.append(_merged(self.mergers[str(level)], states.view(shape)))
        return (states.view(shape), *deep)


def _attend(attention: Any, states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Compute full attention among an image's patches: [n, patches, dim] -> the same shape."""
    n, length, dim = states.shape
    split = attention.qkv(states).view(n, length, 3, attention.num_heads, -1)
    query, key, value = split.unbind(2)
    query, key = (_turned(one, cosines, sines) for one in (query, key))
    query, key, value = (one.transpose(1, 2) for one in (query, key, value))
    mixed = nn.functional.scaled_dot_product_attention(query, key, value)
    projected: Tensor = attention.proj(mixed.transpose(1, 2).reshape(n, length, dim))
    return projected


def _turned(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    half = heads.shape[-1] // 2
    first, second = heads[..., :half].float(), heads[..., half:].float()
    turned = heads * cosines + torch.cat([-second, first], dim=-1) * sines
    return turned.to(heads.dtype)


def _merged(merger: Any, seen: Tensor) -> Tensor:
    """Merge each block's patches to a token: [n, blocks, patches, dim] -> [n, blocks, dim]."""
    if merger.use_postshuffle_norm:
        states = merger.norm(seen.flatten(-2))
    else:
        states = merger.norm(seen).flatten(-2)
    merged: Tensor = merger.linear_fc2(merger.act_fn(merger.linear_fc1(states)))
    return merged


class Join(nn.Module):
    """Inserts the image tokens into the conversation.

    Inputs: seen [n, blocks, patches, dim], hidden [n, tokens around the image, dim], and for each
    name of `deep_names` features [n, blocks, dim].
    Outputs: hidden [n, tokens, dim], and each of the features [n, tokens, dim], 0 outside of the
    image.

    Args:
        model: transformers' `Qwen3VLModel`.
        before: number of tokens before the image.
    """

    def __init__(self, model: Any, before: int) -> None:
        super().__init__()
        self.merger = model.visual.merger
        self._before = before

    @override
    def forward(self, seen: Tensor, hidden: Tensor, *deep: Tensor) -> tuple[Tensor, ...]:
        before, after = hidden[:, : self._before], hidden[:, self._before :]
        whole = torch.cat([before, _merged(self.merger, seen), after], dim=1)
        no_before, no_after = torch.zeros_like(before), torch.zeros_like(after)
        return (whole, *(torch.cat([no_before, one, no_after], dim=1) for one in deep))


class Language(nn.Module):
    """One stage of the language network: some of its layers.

    Its attention is causal, so padding after a text has no effect.

    Inputs: hidden [n, tokens, dim], cosines and sines [n, tokens, head], and features to add after
    the first layers. Output: hidden [n, tokens, dim].
    """

    def __init__(self, model: Any, layers: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(model.language_model.layers[layer] for layer in layers)

    @override
    def forward(
        self, hidden: Tensor, cosines: Tensor, sines: Tensor, *deep: Tensor
    ) -> tuple[Tensor]:
        angles = cosines[:, :, None].float(), sines[:, :, None].float()
        layer: Any
        for place, layer in enumerate(self.layers):
            hidden = hidden + _look_back(layer.self_attn, layer.input_layernorm(hidden), *angles)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
            if place < len(deep):
                hidden = hidden + deep[place]
        return (hidden,)


def _look_back(attention: Any, states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Compute causal attention: [n, tokens, dim] -> the same shape.

    Keys and values are repeated for each query head: with grouped heads, OpenVINO keeps all
    attention scores in memory at once and takes twice as long.
    """
    n, length, _ = states.shape
    heads = (n, length, -1, attention.head_dim)
    query = attention.q_norm(attention.q_proj(states).view(heads))
    key = attention.k_norm(attention.k_proj(states).view(heads))
    value = attention.v_proj(states).view(heads)
    query, key = (_turned(one, cosines, sines) for one in (query, key))
    shared = (-1, -1, -1, attention.num_key_value_groups, -1)
    key, value = (one[:, :, :, None].expand(shared).reshape(heads) for one in (key, value))
    query, key, value = (one.transpose(1, 2) for one in (query, key, value))
    mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    projected: Tensor = attention.o_proj(mixed.transpose(1, 2).reshape(n, length, -1))
    return projected


class End(nn.Module):
    """Pools the last token: hidden [n, tokens, dim], last [n] -> normalized vectors [n, dim]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.norm = model.language_model.norm

    @override
    def forward(self, hidden: Tensor, last: Tensor) -> tuple[Tensor]:
        places = last[:, None, None].expand(-1, 1, hidden.shape[-1])
        return (normalize(self.norm(hidden.gather(1, places)[:, 0]).float()),)

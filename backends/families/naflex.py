"""The image tower of SigLIP 2 NaFlex: an image keeps its aspect ratio, as a grid of patches.

See:
    SigLIP 2: https://arxiv.org/abs/2502.14786
    https://huggingface.co/docs/transformers/model_doc/siglip2: an image has at most 256 patches;
    the table of position embeddings is resized to the grid of each image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn
from typing_extensions import override

from backends.preprocessing.patches import Patching, PatchProcessor
from backends.runtimes.torch.resizing import resize_by_torch
from backends.runtimes.torch.towers import Normalize, Portable, TorchTower


def image_tower(model: Any, processor: Any, max_patches: int | None) -> TorchTower:
    """Build the image tower.

    Args:
        model: transformers' `Siglip2Model`.
        processor: the model's image processor.
        max_patches: maximum number of patches of an image; None for the checkpoint's maximum.

    Raises:
        ValueError: the processor is not configured to resize, rescale and normalize.
    """
    if not (processor.do_resize and processor.do_rescale and processor.do_normalize):
        raise ValueError("its image processor does not resize, rescale and normalize")
    patching = Patching(
        kernel="torch",
        resample=int(processor.resample),
        patch_px=processor.patch_size,
        max_patches=processor.max_num_patches,
        positions=model.vision_model.embeddings.position_embedding_size,
    )
    network = PatchNetwork(model, processor).to(model.device)
    return TorchTower(
        PatchProcessor(patching, max_patches, resize_by_torch),
        network,
        lambda: _portable(network, patching),
    )


def _portable(network: nn.Module, patching: Patching) -> Portable:
    values, weights = 3 * patching.patch_px**2, 2 * patching.positions
    return Portable(
        network,
        (
            np.zeros((2, 7, values), np.uint8),
            np.ones((2, 7, weights), np.float32),
            np.ones((2, 7), np.int64),
        ),
        [(-1, -1, values), (-1, -1, weights), (-1, -1)],
        lambda _folder: {"kind": "patches", **patching.as_json()},
    )


class PatchNetwork(nn.Module):
    """The image network: patches, position weights and a mask -> [n, dim].

    transformers' own `forward` resizes the position embeddings in a loop over images. Here the
    input processor computes the weights of this interpolation (`Patching.places`).
    """

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        values = processor.patch_size**2  # pixels of a patch; channels are last
        mean, std = list(processor.image_mean), list(processor.image_std)
        self.normalize = Normalize(mean * values, std * values, processor.rescale_factor, (-1,))
        self.vision = model.vision_model

    @override
    def forward(self, patches: Tensor, places: Tensor, mask: Tensor) -> Tensor:
        embed, head = self.vision.embeddings, self.vision.head
        dtype = embed.patch_embedding.weight.dtype
        states = embed.patch_embedding(self.normalize(patches).to(dtype))
        states = states + self._positions(places).to(dtype)
        is_patch = mask > 0
        everywhere = is_patch[:, None, None, :].expand(-1, -1, is_patch.shape[1], -1)
        states = self.vision.encoder(states, everywhere).last_hidden_state
        states = self.vision.post_layernorm(states)
        probe = head.probe.repeat(states.shape[0], 1, 1)
        pooled = head.attention(probe, states, states, key_padding_mask=~is_patch)[0]
        vectors: Tensor = (pooled + head.mlp(head.layernorm(pooled)))[:, 0]
        return vectors.float()

    def _positions(self, places: Tensor) -> Tensor:
        rows, columns = places.chunk(2, dim=-1)
        weights = (rows[..., :, None] * columns[..., None, :]).flatten(-2)
        table: Tensor = self.vision.embeddings.position_embedding.weight
        return weights @ table.float()

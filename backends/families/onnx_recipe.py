"""Encoders as the reference's `-onnx` images use them: mean pooling, one piece, length 1.

The reference's images hold a quantized ONNX file. Here the network is quantized to int8 as that of
any other model; a file that `download.py` writes selects this family.
"""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from backends.families import transformers_models as hf
from backends.families.encoder import EncoderModule, load_encoder, mean, piece_tower
from backends.folder import ModelFolder
from backends.model import ModelOptions
from backends.runtimes.torch.towers import EVERY_TEXT_MODE, TorchModel, normalize
from backends.text_folder import TextFolder, max_tokens


def load(folder: ModelFolder, options: ModelOptions) -> TorchModel:
    """Load `model/`, a folder that `save_pretrained` wrote."""
    model, info = load_encoder(folder, options)
    tokenizer = hf.load_tokenizer(TextFolder.open(folder).path, options)
    positions = getattr(model.config, "max_position_embeddings", None)
    longest = max_tokens(tokenizer.model_max_length, positions)
    tower = piece_tower(MeanEncoder(model), tokenizer, longest)
    return TorchModel(info, {"text": tower}, EVERY_TEXT_MODE)


class MeanEncoder(EncoderModule):
    """Mean pooling and normalization: ids and a mask, [n, length] -> [n, dim]."""

    @override
    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return normalize(mean(self.states(ids, mask), mask))

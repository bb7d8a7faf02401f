"""Encoders with the preprocessing and pooling of the reference's `-onnx` images.

A text is embedded in one piece, with mean pooling and normalization. The reference's images hold a
quantized ONNX file; here the network is quantized to int8 like any other model. A file that
`download.py` writes selects this family.
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
    """An encoder with mean pooling: ids and mask [n, length] -> normalized vectors [n, dim]."""

    @override
    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return normalize(mean(self.states(ids, mask), mask))

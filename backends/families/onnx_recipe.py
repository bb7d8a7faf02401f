"""Encoders, read as the text container's ONNX images read them: the mean of one piece, of length 1.

Those images are made of the same models, and quantized. Here it is the network that is put into 8
bits, as any other's; what `download.py` leaves says that it is to be read in this way.
"""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from backends.families import transformers_models as hf
from backends.families.encoder import EncoderModule, load_encoder, mean, piece_tower
from backends.folder import ModelFolder
from backends.model import ModelOptions
from backends.runtimes.torch.towers import EVERY_TEXT_MODE, TorchModel, normalize
from backends.text_folder import TextFolder, most_tokens


def load(folder: ModelFolder, options: ModelOptions) -> TorchModel:
    """Load `model/`, as `save_pretrained` left it."""
    model, info = load_encoder(folder, options)
    tokenizer = hf.load_tokenizer(TextFolder.of(folder).path, options)
    positions = getattr(model.config, "max_position_embeddings", None)
    longest = most_tokens(tokenizer.model_max_length, positions)
    tower = piece_tower(MeanEncoder(model), tokenizer, longest)
    return TorchModel(info, {"text": tower}, EVERY_TEXT_MODE)


class MeanEncoder(EncoderModule):
    """The mean of a text's tokens, of length 1: ids and a mask, [n, length] -> [n, dim]."""

    @override
    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return normalize(mean(self.states(ids, mask), mask))

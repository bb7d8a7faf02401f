"""DPR: one encoder for questions and one for passages, each in a model folder of its own.

See https://arxiv.org/abs/2004.04906. Source of the vectors: the reference's text container, which
uses the model's own pooling and ignores the requested pooling.
"""

from __future__ import annotations

import transformers
from torch import Tensor
from typing_extensions import override

from backends.families import transformers_models as hf
from backends.families.encoder import EncoderModule, chunked_tower, describe_encoder
from backends.folder import ModelFolder
from backends.model import ModelOptions
from backends.runtimes.torch.towers import TorchModel, place
from backends.text_folder import TextFolder
from errors import ModelFolderError

_CLASSES = ("DPRContextEncoder", "DPRQuestionEncoder")
# The reference groups the sentences of a text by 25, and uses only the first vector of each group.
_GATHERED = 25


def load(folder: ModelFolder, options: ModelOptions) -> TorchModel:
    """Load `model/` with the class that its configuration names.

    Raises:
        ModelFolderError: the class is not an encoder of DPR.
    """
    path = TextFolder.open(folder).path
    (name,) = hf.read_config(path)["architectures"]
    if name not in _CLASSES:
        raise ModelFolderError(
            f"{path.absolute()} holds a {name}, where a {' or a '.join(_CLASSES)} is needed"
        )
    model = getattr(transformers, name).from_pretrained(path, **hf.load_options())
    module = PooledByItself(place(model, options))
    dimensions = model.config.projection_dim or model.config.hidden_size
    info = describe_encoder(folder, options, "DPR", model, dimensions)
    every = _GATHERED if options.text_mode == "reference" else 1
    tower = chunked_tower(module, folder, options, every=every)
    return TorchModel(info, {"text": tower}, (options.text_mode,))


class PooledByItself(EncoderModule):
    """An encoder with its own pooling: ids and mask [n, length] -> vectors [n, dim] float32."""

    @override
    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        pooled: Tensor = self.model(input_ids=ids, attention_mask=mask).pooler_output
        return pooled.float()

"""Models of texts only, as the reference's text container has them: each kind is a family's."""

from __future__ import annotations

from backends.families import loader_of
from backends.folder import ModelFolder
from backends.model import ModelOptions
from backends.runtimes.torch.towers import TorchModel
from backends.text_folder import TextFolder, TextKind
from errors import ModelFolderError

# Modules beside this one, each a family of its own.
_KINDS: dict[TextKind, str] = {
    "encoder": "encoder",
    "dpr": "dpr",
    "onnx_recipe": "onnx_recipe",
    "sentence_transformers": "sentence_texts",
    "reranker": "reranker",
}


def load(folder: ModelFolder, options: ModelOptions) -> TorchModel:
    """Load `model/`, whatever lies there.

    Raises:
        ModelFolderError: it is of a kind that torch cannot compute.
    """
    kind = TextFolder.of(folder).kind
    if kind not in _KINDS:
        raise ModelFolderError(f"torch computes no model of the kind {kind}")
    return loader_of(_KINDS[kind])(folder, options)

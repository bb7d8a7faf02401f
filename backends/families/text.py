"""Loads text models from folders of the reference's text container, by the kind of the model."""

from __future__ import annotations

from backends.families import import_loader
from backends.folder import ModelFolder
from backends.model import ModelOptions
from backends.runtimes.torch.towers import TorchModel
from backends.text_folder import TextFolder, TextKind
from errors import ModelFolderError

# Kind of a text model -> module of this package that loads it.
_KINDS: dict[TextKind, str] = {
    "encoder": "encoder",
    "dpr": "dpr",
    "onnx_recipe": "onnx_recipe",
    "sentence_transformers": "sentence_texts",
    "reranker": "reranker",
}


def load(folder: ModelFolder, options: ModelOptions) -> TorchModel:
    """Load the text model in `model/`, with the module for its kind.

    Raises:
        ModelFolderError: torch cannot compute this kind of model.
    """
    kind = TextFolder.open(folder).kind
    if kind not in _KINDS:
        raise ModelFolderError(f"torch cannot compute a model of the kind {kind}")
    return import_loader(_KINDS[kind])(folder, options)

"""Text models in the folders of the reference's text container: chooses the family by the kind."""

from __future__ import annotations

from backends.families import import_loader
from backends.folder import ModelFolder
from backends.model import ModelOptions
from backends.runtimes.torch.towers import TorchModel
from backends.text_folder import TextFolder, TextKind
from errors import ModelFolderError

# Modules of this package, one for each kind.
_KINDS: dict[TextKind, str] = {
    "encoder": "encoder",
    "dpr": "dpr",
    "onnx_recipe": "onnx_recipe",
    "sentence_transformers": "sentence_texts",
    "reranker": "reranker",
}


def load(folder: ModelFolder, options: ModelOptions) -> TorchModel:
    """Load the text model in `model/`, by the family of its kind.

    Raises:
        ModelFolderError: torch cannot compute this kind of model.
    """
    kind = TextFolder.open(folder).kind
    if kind not in _KINDS:
        raise ModelFolderError(f"torch computes no model of the kind {kind}")
    return import_loader(_KINDS[kind])(folder, options)

"""Loads the input processor that `model.json` names; its module is imported when needed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias, cast

from backends.model import InputProcessor, ModelOptions

# The entry `preparation` of `model.json`: the kind of input processor, and its parameters.
Described: TypeAlias = Mapping[str, Any]

# Kind -> module. The module has a function `read`: (folder of its files, parameters, options) ->
# InputProcessor.
_KINDS = {
    "tokens": "backends.preprocessing.tokens",
    "siglip1_tokens": "backends.preprocessing.siglip1_tokens",
    "chunks": "backends.preprocessing.chunks",
    "prompts": "backends.preprocessing.prompts",
    "pairs": "backends.preprocessing.pairs",
    "pixels": "backends.preprocessing.pixels",
    "patches": "backends.preprocessing.patches",
    "tiles": "backends.preprocessing.tiles",
    "conversation": "backends.preprocessing.conversation",
    "blocks": "backends.preprocessing.blocks",
}


def read_preparation(folder: Path, described: Described, options: ModelOptions) -> InputProcessor:
    """Load the input processor that a converted model describes; its files are in `folder`.

    The operator's settings are in `options`, not in the description.

    Raises:
        KeyError: the description names an unknown kind.
    """
    parameters = {name: value for name, value in described.items() if name != "kind"}
    read = import_module(_KINDS[described["kind"]]).read
    return cast("InputProcessor", read(folder, parameters, options))

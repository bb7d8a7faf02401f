"""The preparations that a converted model can name: a table, imported when they are named."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias, cast

from backends.model import ModelOptions, Preparation

# What a converted model says of a preparation: its kind, and the kind's own parameters.
Described: TypeAlias = Mapping[str, Any]

# Each module has a function `read`: (folder of the files, parameters, options) -> Preparation.
_KINDS = {
    "tokens": "backends.inputs.tokens",
    "siglip1_tokens": "backends.inputs.siglip1_tokens",
    "chunks": "backends.inputs.chunks",
    "prompts": "backends.inputs.prompts",
    "pairs": "backends.inputs.pairs",
    "pixels": "backends.inputs.pixels",
    "patches": "backends.inputs.patches",
    "tiles": "backends.inputs.tiles",
    "conversation": "backends.inputs.conversation",
    "blocks": "backends.inputs.blocks",
}


def read_preparation(folder: Path, described: Described, options: ModelOptions) -> Preparation:
    """Make the preparation that a converted model describes; its files lie in its folder.

    What an operator says of how inputs are read is no part of the description.

    Raises:
        KeyError: there is no such kind.
    """
    parameters = {name: value for name, value in described.items() if name != "kind"}
    read = import_module(_KINDS[described["kind"]]).read
    return cast("Preparation", read(folder, parameters, options))

"""The preparations that a converted model can name, each by its kind: a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from backends.inputs import pixels, siglip1_tokens, tokens
from backends.model import Preparation

# What a converted model says of a preparation: its kind, and the kind's own parameters.
Described: TypeAlias = Mapping[str, Any]

_KINDS: dict[str, Callable[[Path, Described], Preparation]] = {
    "tokens": tokens.read,
    "siglip1_tokens": siglip1_tokens.read,
    "pixels": pixels.read,
}


def read_preparation(folder: Path, described: Described) -> Preparation:
    """Make the preparation that a converted model describes; its files lie in its folder.

    Raises:
        KeyError: there is no such kind.
    """
    parameters = {name: value for name, value in described.items() if name != "kind"}
    return _KINDS[described["kind"]](folder, parameters)

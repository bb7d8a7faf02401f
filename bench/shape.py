"""Counts lines of code and functions by folder: `python -m bench.shape`.

Docstrings, comments and blank lines do not count as code. A function counts as called from one
place if its name is unique and appears once beside its definition; a lambda always does. Nested
functions count, `__methods__` do not.
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeGuard

from bench.report import table
from bench.service import ROOT
from bench.trace import PRODUCT

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

_SERVICE = ("app", "vectorizer", "web", "inference")
_NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
            tokenize.ENCODING, tokenize.ENDMARKER}  # fmt: skip


class Shape(NamedTuple):
    """The counts of some modules.

    Attributes:
        code: lines of code.
        functions: all functions.
        once: functions that are called from one place.
        private_once: private functions among `once`.
    """

    code: int
    functions: int
    once: int
    private_once: int


@dataclass(frozen=True)
class Module:
    """A parsed module."""

    path: Path
    text: str

    @property
    def room(self) -> str:
        """The top-level folder or module that it belongs to."""
        return self.path.relative_to(ROOT).with_suffix("").parts[0]

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All nodes of its syntax tree."""
        return list(ast.walk(ast.parse(self.text)))


def product() -> list[Module]:
    """Parse the modules of the product."""
    paths = [
        *ROOT.glob("*.py"),
        *(path for room in PRODUCT for path in (ROOT / room).rglob("*.py")),
    ]
    return [Module(path, path.read_text("utf-8")) for path in sorted(paths)]


@cache
def code_lines(module: Module) -> int:
    """Count lines of code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in module.nodes:
        if is_docstring(node):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def is_docstring(node: ast.AST) -> TypeGuard[ast.Expr]:
    """Return whether a node is a statement of a single string."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def functions(modules: Sequence[Module]) -> list[tuple[Module, str]]:
    """Return the functions of modules with their names; a lambda's name is empty."""
    return [
        (module, getattr(node, "name", ""))
        for module in modules
        for node in module.nodes
        if isinstance(node, Function)
    ]


def once(modules: Sequence[Module]) -> list[tuple[Module, str]]:
    """Return the functions that are called from one place."""
    named = Counter(name for _, name in functions(modules))
    read = Counter(
        node.id if isinstance(node, ast.Name) else node.attr
        for module in modules
        for node in module.nodes
        if isinstance(node, ast.Name | ast.Attribute)
    )
    return [
        (module, name)
        for module, name in functions(modules)
        if not name or (named[name] == read[name] == 1 and not name.startswith("__"))
    ]


def shapes(modules: Sequence[Module]) -> dict[str, Shape]:
    """Return the counts of each folder, of the service, and of all together."""
    every, single = functions(modules), once(modules)

    def shape(rooms: set[str]) -> Shape:
        names = [name for module, name in single if module.room in rooms]
        return Shape(
            code=sum(code_lines(one) for one in modules if one.room in rooms),
            functions=sum(module.room in rooms for module, _ in every),
            once=len(names),
            private_once=sum(name.startswith("_") for name in names),
        )

    rooms = sorted({module.room for module in modules}, key=lambda room: room not in _SERVICE)
    found = {room: shape({room}) for room in rooms}
    found["the service half"] = shape(set(_SERVICE))
    found["the rest"] = shape(set(rooms) - set(_SERVICE))
    found["all"] = shape(set(rooms))
    return found


def main() -> None:
    """Print the table, and with `--functions` the functions."""
    parser = argparse.ArgumentParser("bench.shape", description="Count code and functions.")
    parser.add_argument("--functions", action="store_true", help="list those called from one place")
    options = parser.parse_args()
    modules = product()
    rows = [(room, *map(str, shape)) for room, shape in shapes(modules).items()]
    print(table(("", *(name.replace("_", ", ") for name in Shape._fields)), rows))
    if options.functions:
        for module, name in once(modules):
            print(f"{module.path.relative_to(ROOT)}: {name or 'lambda'}")


if __name__ == "__main__":
    main()

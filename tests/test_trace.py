"""The counts of `bench.trace`, `bench.shape` and `bench.floor`."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import floor, metered, shape, trace
from bench.floor import Cost
from bench.service import ROOT
from bench.shape import Module
from bench.trace import Function, Tracer, Way

PROGRAM = """
import asyncio
def plain():
    return [number for number in range(2)]
async def waits():
    plain()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
def yields():
    yield 1
    yield 2
async def main(names):
    await waits()
    list(yields())
    (lambda: None)()
"""


def program(path: Path) -> dict[str, Any]:
    """A module of the product, as far as its path tells."""
    names: dict[str, Any] = {}
    exec(compile(PROGRAM, str(path), "exec"), names)
    return names


def traced(path: Path) -> Tracer:
    tracer, names = Tracer(), program(path)
    sys.setprofile(tracer)
    try:
        asyncio.run(names["main"](names))  # outside of a recording
        with tracer.recording():
            asyncio.run(names["main"](names))
    finally:
        sys.setprofile(None)
    return tracer


def test_each_call_is_counted_once_however_often_it_goes_on() -> None:
    tracer = traced(ROOT / "web" / "made_up.py")

    names = [function.name for function in tracer.calls]
    assert names == ["main", "waits", "plain", "yields", "main.<locals>.<lambda>"]
    assert Way.of(tracer.calls) == Way(calls=5, functions=4, files=1, changes=0, after=0)


@pytest.mark.parametrize("path", ["tests/made_up.py", "bench/made_up.py", "web/protocol.py"])
def test_what_is_no_part_of_the_product_is_not_counted(path: str) -> None:
    assert traced(ROOT / path).calls == []


def test_changes_of_file_are_counted_in_the_order_of_the_calls() -> None:
    one, another = Function("a.py", 1, "get"), Function("b.py", 1, "get")

    assert Way.of([one, one, another, one], [one]) == Way(4, 2, 2, 2, 1)


def test_every_kind_of_request_is_traced_after_others_of_its_kind() -> None:
    kinds = trace.requests()

    assert set(kinds) == {"a text, computed", "a text, remembered", "ten sentences"}
    assert len(set(kinds["a text, computed"])) == len(kinds["a text, computed"])
    assert len(set(kinds["a text, remembered"])) == 1


CODE = '''"""Of a module."""

# a comment

def used():
    """Of a function."""
    text = """two
    lines"""
    return text


def _once():
    def inner():  # and here
        return used()

    return inner(), used(), lambda: 0


class Thing:
    def __call__(self):
        return _once()
'''
MADE_UP = Module(ROOT / "web" / "made_up.py", CODE)


def test_code_is_neither_docstring_nor_comment_nor_blank() -> None:
    assert shape.code_lines(MADE_UP) == 11


def test_functions_that_are_called_from_one_place() -> None:
    names = [name for _, name in shape.functions([MADE_UP])]
    assert sorted(names) == ["", "__call__", "_once", "inner", "used"]
    assert sorted(name for _, name in shape.once([MADE_UP])) == ["", "_once", "inner"]


def test_the_folders_add_up() -> None:
    shapes = shape.shapes(shape.product())

    service, rest, everything = (shapes[name] for name in ("the service half", "the rest", "all"))
    assert service.code > shapes["web"].code > 0
    assert everything == tuple(map(sum, zip(service, rest, strict=True)))


def test_the_table_is_of_medians_and_of_the_median_ratio() -> None:
    rounds = [(Cost(20, 30, 9), Cost(10, 10, 9)), (Cost(90, 40, 9), Cost(30, 10, 9))]
    rounds.append((Cost(40, 20, 9), Cost(10, 20, 9)))

    first, second, _ = floor.rows({"a text": rounds})
    assert first == ("a text", "event loop", "40", "10", "3.00")
    assert second == ("a text", "beside passes", "30", "10", "3.00")


def test_what_passes_took_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "passes"
    file.write_bytes(metered.SECONDS.pack(1.5))

    assert metered.read_seconds(file) == 1.5

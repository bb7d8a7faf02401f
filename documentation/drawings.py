"""The drawings of the documentation, as SVG: charts of measured figures, and the way of a request.

python -m documentation.drawings    writes them into docs/assets

A chart has no figures of its own: it reads them from a table of docs/benchmarks.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
ASSETS = DOCS / "assets"
_INK, _SOFT, _PAPER = "#1f2937", "#6b7280", "#ffffff"
_COLOURS = {"float32": "#9ca3af", "bfloat16": "#60a5fa", "int8": "#4338ca"}


def drawings() -> dict[str, str]:
    """Return every drawing by the name of its file."""
    return {
        "precision.svg": precision_chart(),
        "request.svg": request_drawing(),
        "sequence.svg": sequence_drawing(),
    }


# Charts.


def table_of(heading: str) -> list[list[str]]:
    """Return the first table below a heading of docs/benchmarks.md, without its titles."""
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    section = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    table = re.search(r"(?:^\|.*\|\n)+", section, re.MULTILINE)
    rows = table[0].splitlines()[2:] if table else []
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def precision_chart() -> str:
    """Draw inputs a second of 16 clients, as multiples of float32's, for each model."""
    groups: dict[str, dict[str, float]] = {}
    model = ""
    for name, precision, *figures in table_of("By precision"):
        model = name or model
        for what, figure in zip(("images", "texts"), figures, strict=False):
            if number := re.match(r"[\d,.]+", figure):
                values = groups.setdefault(f"{model}, {what}", {})
                values[precision.strip("`")] = float(number[0].replace(",", ""))
    return _bars(
        "Inputs a second with 16 clients, float32 = 1 (2 cores of a Xeon with AMX)", groups
    )


def _bars(title: str, groups: Mapping[str, Mapping[str, float]]) -> str:
    left, bar, gap, unit = 240, 15, 14, 92
    parts = [_text(16, 26, title, size=15, weight="bold")]
    y = 46
    for name, values in groups.items():
        parts.append(_text(left - 12, y + 28, name, anchor="end"))
        for precision, value in values.items():
            times = value / values["float32"]
            parts.append(_box(left, y, times * unit, bar - 3, _COLOURS[precision]))
            label = f"{precision} {times:.1f} ({value:,g} a second)"
            parts.append(_text(left + times * unit + 6, y + 10, label, size=11, colour=_SOFT))
            y += bar
        y += gap
    return _svg(880, y + 6, title, parts)


# The way of a request.

_WAY = (
    ("HTTP body", "read within bounds", "413, 429"),
    ("parse", "by the route's format", "422"),
    ("cache", "known, in flight, or missing", ""),
    ("admission", "all inputs or none", "413, 429"),
    ("preprocess", "decode and tokenize", "422"),
    ("fair queue", "requests take turns", "504"),
    ("batch", "inputs of many requests", ""),
    ("network", "one pass on the device", "500"),
    ("answer", "in the order of the inputs", "200"),
)


def request_drawing() -> str:
    """Draw the steps of a request, and the status with which each may end it."""
    width, height, gap, in_a_row = 176, 76, 34, 3
    parts = []
    for place, (name, what, status) in enumerate(_WAY):
        row, column = divmod(place, in_a_row)
        x, y = 16 + column * (width + gap), 16 + row * (height + gap)
        parts += [
            _box(x, y, width, height, "#eef2ff", line="#4338ca"),
            _text(x + width / 2, y + 26, name, anchor="middle", weight="bold"),
            _text(x + width / 2, y + 46, what, anchor="middle", size=12),
            _text(x + width / 2, y + 65, status, anchor="middle", size=12, colour=_SOFT),
        ]
        if place + 1 < len(_WAY):
            if column + 1 < in_a_row:
                parts.append(_arrow(x + width, y + height / 2, x + width + gap, y + height / 2))
            else:
                middle = y + height + gap / 2
                parts += [
                    _line(x + width / 2, y + height, x + width / 2, middle),
                    _line(x + width / 2, middle, 16 + width / 2, middle),
                    _arrow(16 + width / 2, middle, 16 + width / 2, y + height + gap),
                ]
    size = (32 + 3 * width + 2 * gap, 32 + 3 * height + 2 * gap)
    return _svg(*size, "The way of a request", parts)


_ACTORS = ("client", "endpoint", "vectorizer", "cache", "pipeline", "scheduler", "worker")
# From, to, what is said; an answer goes back, in dashes.
_CALLS = (
    ("client", "endpoint", "POST /vectorize"),
    ("endpoint", "vectorizer", "embed(ParsedRequest)"),
    ("vectorizer", "pipeline", "read: input to WorkItem"),
    ("vectorizer", "cache", "get(items)"),
    ("cache", "vectorizer", "hits, in flight, misses"),
    ("vectorizer", "pipeline", "start(admitted misses)"),
    ("pipeline", "scheduler", "submit(chunks)"),
    ("scheduler", "worker", "batch of one bucket"),
    ("worker", "scheduler", "rows"),
    ("scheduler", "vectorizer", "the request's future"),
    ("vectorizer", "cache", "settle(results)"),
    ("vectorizer", "endpoint", "EmbeddingResults"),
    ("endpoint", "client", "200, vectors"),
)


def sequence_drawing() -> str:
    """Draw which part calls which for one request, from top to bottom."""
    step, top, row = 136, 60, 36
    places = {name: 70 + number * step for number, name in enumerate(_ACTORS)}
    bottom = top + row * (len(_CALLS) + 1)
    parts = []
    for name, x in places.items():
        parts += [
            _line(x, top - 10, x, bottom, colour="#cbd5e1"),
            _box(x - 54, 16, 108, 34, "#eef2ff", line="#4338ca"),
            _text(x, 38, name, anchor="middle", weight="bold"),
        ]
    for number, (caller, called, what) in enumerate(_CALLS, 1):
        y = top + number * row
        start, end = places[caller], places[called]
        parts += [
            _arrow(start, y, end, y, dashed=start > end),
            _text((start + end) / 2, y - 6, what, anchor="middle", size=12, halo=True),
        ]
    return _svg(140 + step * (len(_ACTORS) - 1), bottom + 12, "One request, call by call", parts)


# Elements of SVG.


def _svg(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
            f'role="img" font-family="system-ui, sans-serif"><title>{escape(title)}</title>',
            '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0 10 5 0 10z" fill="{_INK}"/></marker>'
            "</defs>",
            f'<rect width="{width:g}" height="{height:g}" rx="8" fill="{_PAPER}"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _box(x: float, y: float, width: float, height: float, fill: str, line: str = "none") -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:.4g}" height="{height:g}" rx="4" '
        f'fill="{fill}" stroke="{line}"/>'
    )


def _text(
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "start",
    size: int = 14,
    weight: str = "normal",
    colour: str = _INK,
    halo: bool = False,
) -> str:
    around = f' stroke="{_PAPER}" stroke-width="4" paint-order="stroke"' if halo else ""
    return (
        f'<text x="{x:.5g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}" '
        f'font-weight="{weight}" fill="{colour}"{around}>{escape(words)}</text>'
    )


def _line(x: float, y: float, to_x: float, to_y: float, colour: str = _INK) -> str:
    return f'<path d="M{x:g} {y:g} L{to_x:g} {to_y:g}" stroke="{colour}" fill="none"/>'


def _arrow(x: float, y: float, to_x: float, to_y: float, *, dashed: bool = False) -> str:
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<path d="M{x:g} {y:g} L{to_x:g} {to_y:g}" stroke="{_INK}" fill="none"{dashes} '
        'marker-end="url(#head)"/>'
    )


def main() -> None:
    """Write every drawing."""
    ASSETS.mkdir(exist_ok=True)
    for name, drawing in drawings().items():
        (ASSETS / name).write_text(drawing, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Writes found images as a contact sheet, one HTML file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import NamedTuple

from PIL import Image, ImageOps

_SIDE_PX = 480
_TEMPLATE = Template(Path(__file__).with_suffix(".html").read_text("utf-8"))


class Match(NamedTuple):
    """A found image: path, bytes, and distance to the query."""

    file: Path
    content: bytes
    distance: float


def contact_sheet(query: str | Path, matches: Sequence[Match]) -> str:
    """Return the HTML page of a query (a sentence or an image file) and its matches.

    The images are part of the page, so that it can be moved and sent.

    Raises:
        OSError: the query's image file cannot be read.
    """
    if isinstance(query, Path):
        title, heading = html.escape(query.name), _figure(query.read_bytes(), query.name)
    else:
        title = heading = html.escape(query)
    cards = "\n".join(map(_card, matches))
    return _TEMPLATE.substitute(title=title, heading=heading, count=len(matches), cards=cards)


def _card(match: Match) -> str:
    name, path = html.escape(match.file.name), html.escape(str(match.file))
    return (
        f"<li>{_figure(match.content, match.file.name)}"
        f'<p><span title="{path}">{name}</span> <b>{match.distance:.3f}</b></p></li>'
    )


def _figure(image: bytes, name: str) -> str:
    try:
        source = _thumbnail(image)
    except (OSError, Image.DecompressionBombError):
        return "<i>no preview</i>"
    return f'<img src="{source}" alt="{html.escape(name)}">'


def _thumbnail(content: bytes) -> str:
    """Return a small copy as a data URL, rotated by its EXIF orientation.

    Raises:
        OSError: the image cannot be read here.
        Image.DecompressionBombError: the image is too large.
    """
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGBA")
    image.thumbnail((_SIDE_PX, _SIDE_PX))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()

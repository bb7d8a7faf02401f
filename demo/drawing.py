"""Draws scenes with Pillow, each time a little differently."""

from __future__ import annotations

import colorsys
import io
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from demo.scenes import Group, Scene

Colour = tuple[int, int, int]
Point = tuple[float, float]

# Hue in degrees, saturation and value in percent: mean and maximum deviation of each.
_HSV = {
    "red": ((0, 90, 88), (7, 10, 12)),
    "orange": ((29, 95, 98), (5, 5, 4)),
    "yellow": ((54, 92, 98), (4, 8, 4)),
    "green": ((125, 78, 65), (18, 15, 18)),
    "blue": ((222, 85, 80), (14, 12, 18)),
    "purple": ((277, 72, 66), (9, 14, 14)),
    "pink": ((332, 45, 99), (10, 12, 3)),
    "black": ((0, 0, 4), (180, 40, 4)),
}
_RADII = {"small": (0.07, 0.09), "big": (0.16, 0.23)}  # of the image's shorter side
_BIG_IN_COMPANY = (0.125, 0.155)
_MARGIN = 0.03
_TRIES = 40
_OVERSAMPLING = 2


@dataclass(frozen=True)
class Thing:
    """A shape on the canvas, in units of the central square's side."""

    x: float
    y: float
    radius: float
    group: int


def arrange(scene: Scene, rng: random.Random) -> list[Thing]:
    """Place all things so that they do not touch."""
    shrink = 1.0
    while True:
        things = _try_to_arrange(scene, shrink, rng)
        if things is not None:
            return things
        shrink *= 0.97


def _try_to_arrange(scene: Scene, shrink: float, rng: random.Random) -> list[Thing] | None:
    things: list[Thing] = []
    for index, group in enumerate(scene.groups):
        radius = shrink * rng.uniform(*_radii(group))
        for _ in range(group.count):
            thing = _free_place(group, radius, index, things, rng)
            if thing is None:
                return None
            things.append(thing)
    return things


def _radii(group: Group) -> tuple[float, float]:
    return _BIG_IN_COMPANY if group.size == "big" and group.count > 1 else _RADII[group.size]


def _free_place(
    group: Group, radius: float, index: int, taken: list[Thing], rng: random.Random
) -> Thing | None:
    for _ in range(_TRIES):
        x = rng.uniform(*_span(group.column, radius, group.count == 1))
        y = rng.uniform(*_span(group.row, radius, group.count == 1))
        if all(math.hypot(x - t.x, y - t.y) > 1.08 * (radius + t.radius) for t in taken):
            return Thing(x, y, radius, index)
    return None


def _span(side: str, radius: float, alone: bool) -> tuple[float, float]:
    """Return the range of a thing's centre along one axis."""
    near, inner = radius + _MARGIN, 0.32 if alone else 0.46 - radius
    if side in ("left", "top"):
        return near, inner
    if side in ("right", "bottom"):
        return 1 - inner, 1 - near
    if side == "middle":
        return 0.44, 0.56
    return (0.38, 0.62) if alone else (near, 1 - near)


def draw(
    scene: Scene, things: Sequence[Thing], size: tuple[int, int], rng: random.Random
) -> Image.Image:
    """Draw things in the central square of a canvas of `size` (width, height)."""
    width, height = (side * _OVERSAMPLING for side in size)
    canvas = Image.new("RGB", (width, height), _background(scene.background, rng))
    pen, side = ImageDraw.Draw(canvas), min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    fills = [_shade(group.colour, rng) for group in scene.groups]
    for thing in things:
        outline = _outline(scene.groups[thing.group].shape, math.radians(rng.uniform(-12, 12)))
        centre = (left + thing.x * side, top + thing.y * side)
        corners = _moved(outline, centre, thing.radius * side)
        pen.polygon(
            corners, fills[thing.group], fills[thing.group]
        )  # its edge closes a ring's seam
    return canvas.reduce(_OVERSAMPLING)


def draw_scene(scene: Scene, rng: random.Random, size: tuple[int, int] = (224, 224)) -> Image.Image:
    """Arrange and draw a scene."""
    return draw(scene, arrange(scene, rng), size, rng)


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """Return an image after JPEG compression."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def _shade(colour: str, rng: random.Random) -> Colour:
    middle, stray = _HSV[colour]
    hue, saturation, value = (rng.uniform(m - s, m + s) for m, s in zip(middle, stray, strict=True))
    return _rgb(hue / 360 % 1, saturation / 100, value / 100)


def _background(name: str, rng: random.Random) -> Colour:
    if name == "white":
        return _rgb(0, 0, rng.choice((1.0, rng.uniform(0.96, 1))))
    if name == "grey":
        return _rgb(rng.random(), rng.uniform(0, 0.04), rng.uniform(0.68, 0.84))
    if name == "dark":
        return _rgb(rng.random(), rng.uniform(0, 0.3), rng.uniform(0.04, 0.2))
    return _rgb(rng.random(), rng.uniform(0.07, 0.16), rng.uniform(0.93, 1))


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    parts = colorsys.hsv_to_rgb(hue, *(min(max(part, 0.0), 1.0) for part in (saturation, value)))
    red, green, blue = (round(255 * part) for part in parts)
    return red, green, blue


def _moved(outline: list[Point], centre: Point, radius: float) -> list[Point]:
    return [(centre[0] + radius * x, centre[1] + radius * y) for x, y in outline]


def _outline(shape: str, turn: float) -> list[Point]:
    cos, sin = math.cos(turn), math.sin(turn)
    return [(x * cos - y * sin, x * sin + y * cos) for x, y in _OUTLINES[shape]]


def _polar(corners: int, start_degrees: float, radii: tuple[float, ...] = (1.0,)) -> list[Point]:
    """Return points around the centre, with alternating radii."""
    steps = [(radii[i % len(radii)], start_degrees + i * 360 / corners) for i in range(corners)]
    return [(r * math.cos(math.radians(d)), r * math.sin(math.radians(d))) for r, d in steps]


def _heart() -> list[Point]:
    around = [math.tau * i / 48 for i in range(48)]
    return [
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
        )
        for t in around
    ]


def _ring() -> list[Point]:
    outer, inner = _polar(48, 0), _polar(48, 0, (0.58,))
    return [*outer, outer[0], inner[0], *reversed(inner)]


def _cross(arm: float = 0.32) -> list[Point]:
    quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
    corners = list(quarter)
    for _ in range(3):
        quarter = [(-y, x) for x, y in quarter]
        corners += quarter
    return corners


# Every shape as a polygon of radius about 1 around its centre; y points down.
_OUTLINES = {
    "circle": _polar(48, 0),
    "square": _polar(4, 45, (1.15,)),
    "triangle": _polar(3, -90, (1.12,)),
    "star": _polar(10, -90, (1.15, 0.46)),
    "heart": _heart(),
    "cross": _cross(),
    "ring": _ring(),
    "diamond": [(0.0, -1.12), (0.72, 0.0), (0.0, 1.12), (-0.72, 0.0)],
}

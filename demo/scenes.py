"""Scenes: their content, their sampling, and the compositions that are held out of training.

Scenes are drawn by drawing.py, and described by captions.py.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

SIZES = ("small", "big")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "diamond")
COLUMNS = ("left", "middle", "right")
ROWS = ("top", "middle", "bottom")
BACKGROUNDS = ("white", "grey", "dark", "")  # the last one is a pale tint that no caption names

MANY = -1  # the count that a caption claims with "some circles"
MOST = 4  # things in one group
CODES_PER_GROUP = 6

Codes = NDArray[np.int8]


@dataclass(frozen=True)
class Group:
    """Equal things in one place, such as "three small blue squares on the left".

    The same class holds the claims of a caption; there a blank (0 or "") means not claimed. In a
    scene, a blank column or row means that the group is spread over that axis.
    """

    count: int = 0
    size: str = ""
    colour: str = ""
    shape: str = ""
    column: str = ""
    row: str = ""

    @property
    def kind(self) -> str:
        """Colour and shape of the things, such as "red circle"."""
        return f"{self.colour} {self.shape}"

    @property
    def codes(self) -> list[int]:
        """The attributes as integers, 0 for a blank."""
        words = ((self.size, SIZES), (self.colour, COLOURS), (self.shape, SHAPES))
        places = ((self.column, COLUMNS), (self.row, ROWS))
        return [self.count, *(_code(word, among) for word, among in words + places)]


@dataclass(frozen=True)
class Scene:
    """One group, or two groups side by side or one above the other."""

    groups: tuple[Group, ...]
    background: str = ""

    @property
    def codes(self) -> list[int]:
        """The codes of both groups (zeros for a missing one), then the background's."""
        first, second = (*self.groups, Group())[:2]
        return [*first.codes, *second.codes, _code(self.background, BACKGROUNDS[:-1])]


def _code(word: str, among: Sequence[str]) -> int:
    return among.index(word) + 1 if word else 0


def encode(scenes: Sequence[Scene]) -> Codes:
    """Return the codes of scenes or claims: [n, 13] int8."""
    return np.array([scene.codes for scene in scenes], dtype=np.int8)


def fits(claims: Codes, scenes: Codes) -> NDArray[np.bool_]:
    """Return which claims are true of which scenes: [claims, scenes] bool.

    A claim is true of a scene if each claimed group is there with all claimed attributes, in any
    order of groups.
    """
    one, two = slice(0, CODES_PER_GROUP), slice(CODES_PER_GROUP, 2 * CODES_PER_GROUP)
    straight = _agree(claims[:, one], scenes[:, one]) & _agree(claims[:, two], scenes[:, two])
    crossed = _agree(claims[:, one], scenes[:, two]) & _agree(claims[:, two], scenes[:, one])
    return (straight | crossed) & _agree(claims[:, -1:], scenes[:, -1:])


def _agree(claimed: Codes, seen: Codes) -> NDArray[np.bool_]:
    claimed, seen = claimed[:, None], seen[None]
    many = (claimed == MANY) & (seen > 1)
    agreed: NDArray[np.bool_] = ((claimed == 0) | (claimed == seen) | many).all(axis=-1)
    return agreed


def held_out(scene: Scene) -> bool:
    """Return whether a scene's composition is held out of training.

    Eight of the 64 kinds of things are held out, one shape of each colour and one colour of each
    shape: training has no orange heart, alone or with another group. One of eight pairs of kinds is
    held out too, such as a blue square with a red ring.
    """
    return any(map(_is_unseen_kind, scene.groups)) or _is_unseen_company(scene.groups)


def _is_unseen_kind(group: Group) -> bool:
    return (COLOURS.index(group.colour) + 3 * SHAPES.index(group.shape)) % len(COLOURS) == 5


def _is_unseen_company(groups: Sequence[Group]) -> bool:
    name = " and ".join(sorted(group.kind for group in groups))
    return len(groups) > 1 and hashlib.sha256(name.encode()).digest()[0] % 8 == 0


def training_scenes(rng: random.Random) -> Iterator[Scene]:
    """Yield training scenes, each followed by three scenes that differ in one attribute."""
    while True:
        scene = _sample_where(lambda: sample(rng), lambda made: not held_out(made))
        yield scene
        for _ in range(3):
            yield _sample_where(partial(vary, scene, rng), lambda made: not held_out(made))


def held_out_scenes(rng: random.Random) -> Iterator[Scene]:
    """Yield scenes with held-out compositions."""
    while True:
        yield _sample_where(lambda: sample(rng), held_out)


def _sample_where(make: Callable[[], Scene], wanted: Callable[[Scene], bool]) -> Scene:
    return next(made for made in iter(make, None) if wanted(made))


def sample(rng: random.Random) -> Scene:
    """Sample a scene: one thing, several equal things, or two groups."""
    groups = rng.choices((_one_thing, _one_group, _two_groups), weights=(4, 2, 5))[0](rng)
    return _set_background(Scene(groups), rng)


def _one_thing(rng: random.Random) -> tuple[Group, ...]:
    return (replace(_things(1, rng), column=rng.choice(COLUMNS), row=rng.choice(ROWS)),)


def _one_group(rng: random.Random) -> tuple[Group, ...]:
    group = _things(rng.randint(2, MOST), rng)
    column, row = rng.choice([("left", ""), ("right", ""), ("", "top"), ("", "bottom"), ("", "")])
    return (replace(group, column=column, row=row),)


def _two_groups(rng: random.Random) -> tuple[Group, ...]:
    first, second = (_things(rng.choice((1, 1, 1, 2, 3)), rng) for _ in range(2))
    if first.kind == second.kind:
        return _two_groups(rng)
    if rng.random() < 0.5:
        return replace(first, column="left"), replace(second, column="right")
    return replace(first, row="top"), replace(second, row="bottom")


def _things(count: int, rng: random.Random) -> Group:
    size = "small" if count == MOST else rng.choice(SIZES)
    return Group(count, size, rng.choice(COLOURS), rng.choice(SHAPES))


def _set_background(scene: Scene, rng: random.Random) -> Scene:
    """Choose a background on which all things are visible."""
    black = any(group.colour == "black" for group in scene.groups)
    choice = [name for name in BACKGROUNDS if not (black and name == "dark")]
    return replace(scene, background=rng.choice(choice))


def vary(scene: Scene, rng: random.Random) -> Scene:
    """Return a scene with one attribute changed, or swapped between its groups."""
    trade = len(scene.groups) == 2 and rng.random() < 0.5
    groups = (_traded if trade else _changed)(scene.groups, rng)
    if groups == scene.groups or not _can_be_drawn(groups):
        return vary(scene, rng)
    return _set_background(Scene(groups), rng)


def _can_be_drawn(groups: Sequence[Group]) -> bool:
    roomy = all(group.count < MOST or group.size == "small" for group in groups)
    return roomy and len({group.kind for group in groups}) == len(groups)


def _traded(groups: tuple[Group, ...], rng: random.Random) -> tuple[Group, ...]:
    first, second = groups
    names = rng.choice((("column", "row"), ("colour",), ("shape",), ("size",), ("count",)))
    return _take(first, second, names), _take(second, first, names)


def _take(group: Group, other: Group, names: Sequence[str]) -> Group:
    return replace(group, **{name: getattr(other, name) for name in names})


def _changed(groups: tuple[Group, ...], rng: random.Random) -> tuple[Group, ...]:
    at = rng.randrange(len(groups))
    group = groups[at]
    place = _one_thing if group.count == 1 else _one_group
    donor = place(rng)[0] if len(groups) == 1 else _things(rng.choice((1, 2, 3)), rng)
    places = [("column", "row")] if len(groups) == 1 else []
    counts = [("count",)] if group.count > 1 or len(groups) == 2 else []
    names = rng.choice([("size",), ("colour",), ("shape",), *places, *counts])
    changed = _take(group, donor, names)
    return (*groups[:at], changed, *groups[at + 1 :])

"""Makes captions of scenes in many wordings, and keeps the claims of each caption.

The word lists here are the vocabulary of the demo model.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from demo.scenes import MANY, Group, Scene

# The first word of a list is the usual one and is drawn most often.
_COUNT_WORDS = {
    1: ("a", "one", "the", "a single", "1", ""),
    2: ("two", "2", "a pair of", "a couple of"),
    3: ("three", "3"),
    4: ("four", "4"),
    MANY: ("some", "several", "many", ""),
}
_SIZE_WORDS = {"small": ("small", "little", "tiny"), "big": ("big", "large", "huge", "giant")}
_COLOUR_WORDS = {
    "red": ("red", "crimson", "scarlet"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rose"),
    "yellow": ("yellow", "golden"),
}
_SHAPE_WORDS = {
    "circle": ("circle", "disc", "disk", "dot", "ball"),
    "square": ("square", "box"),
    "cross": ("cross", "plus sign", "plus"),
    "ring": ("ring", "hoop", "donut"),
    "diamond": ("diamond", "rhombus"),
    "": ("shape", "thing", "object"),
}
_PLURALS = {"box": "boxes", "cross": "crosses", "plus": "pluses", "rhombus": "rhombuses"}
_IMAGE = (
    "a picture of", "picture of", "a photo of", "photo of", "an image of", "image of",
    "a drawing of",
    "an illustration of", "there is", "this is", "i see", "we see", "here is", "show me", "find",
)  # fmt: skip
_BACKGROUND_WORDS = {
    "white": ("white",), "grey": ("grey", "gray", "light grey"), "dark": ("dark", "black"),
}  # fmt: skip
_SIDES = {
    "left": ("on the left", "on the left side", "at the left", "to the left",
             "on the left hand side"),
    "right": ("on the right", "on the right side", "at the right", "to the right",
              "on the right hand side"),
    "top": ("at the top", "on the top", "near the top", "in the upper part", "in the upper half"),
    "bottom": ("at the bottom", "on the bottom", "near the bottom", "in the lower part",
               "in the lower half"),
}  # fmt: skip
_CENTRE = ("in the middle", "in the centre", "in the center", "at the centre", "at the center")
_ROW_WORDS = {"top": ("upper", "top"), "bottom": ("lower", "bottom")}
_CORNERS = ("in the {} {} corner", "in the {} {}", "at the {} {}", "{} {}")
_RELATIONS = {
    "left": ("to the left of", "left of", "on the left of"),
    "right": ("to the right of", "right of", "on the right of"),
    "top": ("above", "over", "on top of"),
    "bottom": ("below", "under", "beneath", "underneath"),
}
_COMPANY = ("and", "with", "next to", "beside", "near")


@dataclass(frozen=True)
class Caption:
    """A caption and its claims: a scene with blanks for everything that the words leave open."""

    text: str
    claims: Scene


def full_caption(scene: Scene, rng: random.Random) -> Caption:
    """Describe the whole scene, sometimes without its background."""
    background = scene.background if rng.random() < 0.4 else ""
    claims = Scene(tuple(_plain_place(group) for group in scene.groups), background)
    return Caption(_worded(claims, rng), claims)


def partial_caption(scene: Scene, rng: random.Random) -> Caption:
    """Describe a part of the scene, like a search query."""
    groups = [_plain_place(group) for group in scene.groups]
    if len(groups) == 2 and rng.random() < 0.4:
        groups = [rng.choice(groups)]
    elif len(groups) == 2 and rng.random() < 0.5:
        groups = [replace(group, column="", row="") for group in groups]
    background = scene.background if rng.random() < 0.2 else ""
    claims = Scene(tuple(_forget(group, len(groups) == 1, rng) for group in groups), background)
    return Caption(_worded(claims, rng), claims)


def _plain_place(group: Group) -> Group:
    """Remove "middle" from "middle left", as people say "on the left"."""
    if "middle" not in (group.column, group.row) or group.column == group.row:
        return group
    return replace(group, column=_unless_middle(group.column), row=_unless_middle(group.row))


def _unless_middle(side: str) -> str:
    return "" if side == "middle" else side


def _forget(group: Group, place_too: bool, rng: random.Random) -> Group:
    blank: dict[str, str | int] = {}
    if rng.random() < 0.6:
        blank["size"] = ""
    if rng.random() < 0.2:
        blank["colour"] = ""
    elif rng.random() < 0.15:
        blank |= {"shape": "", "count": 0} if rng.random() < 0.7 else {"shape": ""}
    elif group.count > 1 and rng.random() < 0.25:
        blank["count"] = MANY
    if place_too and rng.random() < 0.6:
        blank |= {"column": "", "row": ""}
    return replace(group, **blank)  # type: ignore[arg-type]  # names and types go together above


def _worded(claims: Scene, rng: random.Random) -> str:
    groups = list(claims.groups)
    rng.shuffle(groups)
    place = _place(groups[0], rng)
    if len(groups) == 1 and place and rng.random() < 0.3:
        text = rng.choice(("{} {}", "{}, {}", "{} there is {}")).format(
            place, _noun(groups[0], rng)
        )
    else:
        text = _one(groups[0], rng) if len(groups) == 1 else _two(groups[0], groups[1], rng)
        text = f"{rng.choice(_IMAGE)} {text}" if rng.random() < 0.3 else text
    text = f"{text} {_against(claims.background, rng)}" if claims.background else text
    return text + rng.choice(("", "", "", "."))


def _against(background: str, rng: random.Random) -> str:
    form = rng.choice(
        ("on a {} background", "on {} background", "against a {} background", "on {}")
    )
    return form.format(_usual(_BACKGROUND_WORDS[background], rng))


def _one(group: Group, rng: random.Random) -> str:
    return _joined(_noun(group, rng), _place(group, rng))


def _two(first: Group, second: Group, rng: random.Random) -> str:
    nouns = _noun(first, rng), _noun(second, rng)
    side = first.column or first.row
    if not side:
        return f" {rng.choice(_COMPANY)} ".join(nouns)
    if rng.random() < 0.6:
        return f" {_usual(_RELATIONS[side], rng)} ".join(nouns)
    places = _place(first, rng), _place(second, rng)
    parts = [f"{noun} {place}" for noun, place in zip(nouns, places, strict=True)]
    return rng.choice((" and ", ", ", " with ")).join(parts)


def _place(group: Group, rng: random.Random) -> str:
    if group.column == group.row == "middle":
        return _usual(_CENTRE, rng)
    if group.column and group.row:
        return rng.choice(_CORNERS).format(_usual(_ROW_WORDS[group.row], rng), group.column)
    side = group.column or group.row
    return _usual(_SIDES[side], rng) if side else ""


def _noun(group: Group, rng: random.Random) -> str:
    """Return a noun phrase: "two big red circles", "a star, big and blue", "something green"."""
    size = _usual(_SIZE_WORDS[group.size], rng) if group.size else ""
    colour = _usual(_COLOUR_WORDS.get(group.colour, (group.colour,)), rng)
    if not group.count:
        return _joined("something", size, colour)
    count, shape = _usual(_COUNT_WORDS[group.count], rng), _shape(group, rng)
    if colour and rng.random() < 0.08:
        return _with_article(_joined(count, shape + ",", size, "and" if size else "", colour))
    return _with_article(
        _joined(count, *rng.choice(((size, colour),) * 9 + ((colour, size),)), shape)
    )


def _shape(group: Group, rng: random.Random) -> str:
    word = _usual(_SHAPE_WORDS.get(group.shape, (group.shape,)), rng)
    return word if group.count == 1 else _PLURALS.get(word, word + "s")


def _usual(words: tuple[str, ...], rng: random.Random) -> str:
    """Choose the first word half of the time."""
    return words[0] if rng.random() < 0.5 else rng.choice(words)


def _joined(*words: str) -> str:
    return " ".join(word for word in words if word)


def _with_article(noun: str) -> str:
    return f"an {noun[2:]}" if noun.startswith("a ") and noun[2] in "aeiou" else noun

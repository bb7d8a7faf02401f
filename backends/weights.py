"""Stored weights against those that a model needs: by name, by shape, and in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile

MISSING, NOT_FINITE = "is missing", "is not finite"
NAMED = 3  # in a sentence


def misshapen(stored: Sequence[int], needed: Sequence[int]) -> str:
    """Say that a weight is stored in another shape."""
    return f"is {list(stored)}, where {list(needed)} is needed"


def do_not_fit(faults: Sequence[str]) -> str:
    """Say which weights do not fit, the first few of them, each fault with the weight's name."""
    more = ", and so on" if len(faults) > NAMED else ""
    return f"its weights do not fit: {', '.join(faults[:NAMED])}{more}"


def strange_prefix(missing: Iterable[str], unexpected: Iterable[str], own: str = "") -> str:
    """Return what stands before the names of stored weights that would fit without it.

    Data-parallel training saves a model's weights as `module.…`.

    Args:
        missing: names of weights that are needed.
        unexpected: names of those that are stored and not needed.
        own: a prefix that may stand before the name of a weight in either.
    """
    needed = {name.removeprefix(own) for name in missing}
    parts = common_prefix(unexpected).split(".")
    for prefix in (".".join([*parts[:number], ""]) for number in range(1, len(parts))):
        if needed & {name.removeprefix(prefix).removeprefix(own) for name in unexpected}:
            return prefix
    return ""


def common_prefix(names: Iterable[str]) -> str:
    """Return what stands before all names, up to a dot, such as `module.`; empty for none."""
    parts = zip(*(name.split(".")[:-1] for name in names), strict=False)
    shared = takewhile(lambda part: len(set(part)) == 1, parts)
    return "".join(f"{part}." for part, *_ in shared)

"""Messages about differences between stored weights and the weights that a model needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile

MISSING, NOT_FINITE = "is missing", "is not finite"
NAMED = 3  # maximum number of weights in a message


def misshapen(stored: Sequence[int], needed: Sequence[int]) -> str:
    """Return the part of a message that describes a weight with a wrong shape."""
    return f"is {list(stored)}, where {list(needed)} is needed"


def do_not_fit(faults: Sequence[str]) -> str:
    """Return the message that weights do not fit the network, with the first few faults."""
    more = ", and so on" if len(faults) > NAMED else ""
    return f"its weights do not fit: {', '.join(faults[:NAMED])}{more}"


def strange_prefix(missing: Iterable[str], unexpected: Iterable[str], own: str = "") -> str:
    """Return a prefix that stored names must lose to fit the model; empty if there is none.

    Data-parallel training saves a model's weights as `module.…`.

    Args:
        missing: names of needed weights.
        unexpected: names of stored weights that are not needed.
        own: a prefix that names in both arguments may have.
    """
    needed = {name.removeprefix(own) for name in missing}
    parts = common_prefix(unexpected).split(".")
    for prefix in (".".join([*parts[:number], ""]) for number in range(1, len(parts))):
        if needed & {name.removeprefix(prefix).removeprefix(own) for name in unexpected}:
            return prefix
    return ""


def common_prefix(names: Iterable[str]) -> str:
    """Return the common prefix of all names, up to a dot, such as `module.`; empty if none."""
    parts = zip(*(name.split(".")[:-1] for name in names), strict=False)
    shared = takewhile(lambda part: len(set(part)) == 1, parts)
    return "".join(f"{part}." for part, *_ in shared)

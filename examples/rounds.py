"""Imports in rounds: what failed is told, and alone sent again after a pause."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from examples.photo_files import Photo

PAUSES_S = (1, 2, 4, 8, 16)  # together longer than a restart of the service takes
_NAMES_TOLD = 5
_REFUSED = re.compile(r"\bstatus 4(?!08|29)\d\d\b")  # but for late and busy, which pass

Failures = dict[Path, str]
Send = Callable[[Sequence[Photo]], Failures]


def import_in_rounds(
    images: Sequence[Photo],
    send: Send,
    tell: Callable[[str], None],
    pauses_s: Sequence[float] = PAUSES_S,
) -> Failures:
    """Send images, and those that failed again after each pause, until none is left to try.

    What the service refuses is not sent again: it would be refused again.

    Args:
        images: what to import.
        send: sends some of them, and returns those that failed and why.
        tell: is told what failed in a round, before the pause.
        pauses_s: how long to wait before each further round.

    Returns:
        What has failed for good.
    """
    failures = send(images)
    for pause_s in pauses_s:
        again = [p for p in images if p.path in failures and not is_refused(failures[p.path])]
        if not again:
            break
        tell(f"{describe(failures)}\nTrying {len(again)} of them again in {pause_s} s.")
        time.sleep(pause_s)
        refused = {path: why for path, why in failures.items() if is_refused(why)}
        failures = refused | send(again)
    return failures


def is_refused(reason: str) -> bool:
    """Tell whether an image failed by its own fault, which no repetition will change."""
    return _REFUSED.search(reason) is not None


def describe(failures: Failures) -> str:
    """Say how many failed, and for each reason which."""
    paths_by_reason: dict[str, list[Path]] = {}
    for path, reason in failures.items():
        paths_by_reason.setdefault(reason, []).append(path)
    lines = [f"{reason}: {_names(paths)}" for reason, paths in paths_by_reason.items()]
    return "\n  ".join([f"{len(failures)} failed:", *lines])


def _names(paths: list[Path]) -> str:
    names = ", ".join(path.name for path in paths[:_NAMES_TOLD])
    more = len(paths) - _NAMES_TOLD
    return f"{names} and {more} more" if more > 0 else names

"""Imports in rounds: failed images are reported, and sent again after a pause."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from examples.photo_files import Photo

PAUSES_S = (1, 2, 4, 8, 16)  # together longer than a restart of the service takes
_NAMES_TOLD = 5
_REFUSED = re.compile(r"\bstatus 4(?!08|29)\d\d\b")  # but for timeout and busy

Failures = dict[Path, str]
Send = Callable[[Sequence[Photo]], Failures]


def import_in_rounds(
    images: Sequence[Photo],
    send: Send,
    report: Callable[[str], None],
    pauses_s: Sequence[float] = PAUSES_S,
) -> Failures:
    """Send images, and send failed ones again after each pause.

    Images that the service refused are not sent again.

    Args:
        images: the images to import.
        send: function that sends images, and returns the failed files with reasons.
        report: function that prints a message about a round's failures, before the pause.
        pauses_s: seconds before each further round.

    Returns:
        The files that failed finally, with reasons.
    """
    failures = send(images)
    for pause_s in pauses_s:
        again = [p for p in images if p.path in failures and not is_refused(failures[p.path])]
        if not again:
            break
        report(f"{describe(failures)}\nTrying {len(again)} of them again in {pause_s} s.")
        time.sleep(pause_s)
        refused = {path: why for path, why in failures.items() if is_refused(why)}
        failures = refused | send(again)
    return failures


def is_refused(reason: str) -> bool:
    """Return whether the service refused an image, so that sending it again is useless."""
    return _REFUSED.search(reason) is not None


def describe(failures: Failures) -> str:
    """Return a message with the number of failures, and the files by reason."""
    paths_by_reason: dict[str, list[Path]] = {}
    for path, reason in failures.items():
        paths_by_reason.setdefault(reason, []).append(path)
    lines = [f"{reason}: {_names(paths)}" for reason, paths in paths_by_reason.items()]
    return "\n  ".join([f"{len(failures)} failed:", *lines])


def _names(paths: list[Path]) -> str:
    names = ", ".join(path.name for path in paths[:_NAMES_TOLD])
    more = len(paths) - _NAMES_TOLD
    return f"{names} and {more} more" if more > 0 else names

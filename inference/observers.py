"""Observers of events, such as metrics and logs, whose failures do not disturb the service."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, ParamSpec

logger = logging.getLogger(__name__)

P = ParamSpec("P")


class Observers(Generic[P]):
    """Calls all observers; an observer that raises is logged and counted.

    Attributes:
        failures: number of failed calls.
    """

    def __init__(self, *observers: Callable[P, None]) -> None:
        self.failures = 0
        self._observers = list(observers)

    def add(self, observer: Callable[P, None]) -> None:
        """Add an observer, which receives every later event."""
        self._observers.append(observer)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Call all observers with these arguments."""
        for observe in self._observers:
            try:
                observe(*args, **kwargs)
            except BaseException:  # must not disturb the observed work
                self.failures += 1
                logger.exception("An observer failed; requests are answered all the same")

"""Those who are told what happened, and cannot disturb it: metrics, the log, the measured rate."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, ParamSpec

logger = logging.getLogger(__name__)

P = ParamSpec("P")


class Observers(Generic[P]):
    """Tells all of them; one that raises is logged and counted, and changes nothing.

    Attributes:
        failures: how often one of them raised.
    """

    def __init__(self, *observers: Callable[P, None]) -> None:
        self.failures = 0
        self._observers = list(observers)

    def add(self, observer: Callable[P, None]) -> None:
        """Tell this one, too, from now on."""
        self._observers.append(observer)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Tell all of them."""
        for observe in self._observers:
            try:
                observe(*args, **kwargs)
            except BaseException:  # whatever it is, it is no fault of what was observed
                self.failures += 1
                logger.exception("An observer failed; requests are answered all the same")

"""Whether the service can do its work, as its own batches show it. Knows no HTTP and no model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from errors import DeviceLostError

# One bad batch is an accident; so many in a row, and none that succeeded between, are a fault.
_FAILURES_IN_A_ROW = 3


class Health:
    """Hears how batches go, and says what is wrong; safe to be told from several threads.

    Args:
        longest_batch_s: that a batch may take; one that takes longer hangs.
        clock: tells the time in seconds.
    """

    def __init__(
        self,
        longest_batch_s: float = math.inf,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.draining = False
        self._longest_batch_s = longest_batch_s
        self._clock = clock
        self._running: dict[object, float] = {}  # since when
        self._lost: str | None = None
        self._failures = 0
        self._last_failure = ""

    @property
    def dead(self) -> str | None:
        """Why only a new process can help, or None."""
        return self._lost

    @property
    def failing(self) -> str | None:
        """Why batches fail just now, or None; the next that succeeds ends it."""
        if self._failures < _FAILURES_IN_A_ROW:
            return None
        return f"the last {self._failures} batches failed: {self._last_failure}"

    @property
    def hanging(self) -> str | None:
        """Why no batch ends just now, or None; its end ends it."""
        now_s = self._clock()
        longest_s = max((now_s - since_s for since_s in list(self._running.values())), default=0)
        if longest_s <= self._longest_batch_s:
            return None
        return f"a batch has not ended for {longest_s:.0f} s"

    @property
    def unready(self) -> str | None:
        """Why no new requests should come, or None."""
        stopping = "shutting down" if self.draining else None
        return self.dead or self.failing or self.hanging or stopping

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch how long a batch takes."""
        batch = object()
        self._running[batch] = self._clock()
        try:
            yield
        finally:
            del self._running[batch]

    def batch_succeeded(self) -> None:
        """A batch was computed."""
        self._failures = 0

    def batch_failed(self, error: Exception) -> None:
        """A batch was not."""
        self._failures += 1
        self._last_failure = str(error) or type(error).__name__
        if isinstance(error, DeviceLostError):
            self._lost = f"the device is lost, start the service anew: {self._last_failure}"

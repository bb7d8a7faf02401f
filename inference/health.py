"""Whether the service can do its work, as its own threads show it. Knows no HTTP and no model.

each replica of each scheduler: its batches, and its thread's jobs -> Monitor -.
the decode pool:           its threads' jobs                  -> Monitor --> Health -> the probes
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

from errors import DeviceLostError

# One bad batch is an accident; so many in a row, and none that succeeded between, are a fault.
_FAILURES_IN_A_ROW = 3
# A job that has taken so many times the longest that one may take never ends: only a new process
# is rid of its thread.
_STUCK = 3
_REMEDY = "start the service anew"


class Monitor:
    """What one pool of threads tells of itself; any thread may tell it.

    Args:
        name: of the pool.
        clock: tells the time in seconds.

    Attributes:
        dead: why only a new process can help, or None.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self.dead: str | None = None
        self._name = name
        self._clock = clock
        self._running: dict[object, float] = {}  # since when
        self._failures = 0
        self._last_failure = ""

    def job_began(self, job: object) -> None:
        """A thread has begun with a job."""
        self._running[job] = self._clock()

    def job_ended(self, job: object) -> None:
        """What came of a job has arrived where it was wanted."""
        self._running.pop(job, None)

    def batch_succeeded(self) -> None:
        """A batch is done, and one of its items at least was computed."""
        self._failures = 0

    def batch_failed(self, error: Exception) -> None:
        """A batch is done, and none of its items was computed."""
        self._failures += 1
        self._last_failure = str(error) or type(error).__name__
        if isinstance(error, DeviceLostError):
            self.died("the device is lost", self._last_failure)

    def died(self, fault: str, reason: str) -> None:
        """Nothing will be computed here any more; what is told first counts."""
        self.dead = self.dead or f"{fault}, {_REMEDY}: {reason}"

    @property
    def is_idle(self) -> bool:
        """Whether no job runs."""
        return not self._running

    @property
    def failing(self) -> str | None:
        """Why batches fail just now, or None; the next that succeeds ends it."""
        if self._failures < _FAILURES_IN_A_ROW:
            return None
        return f"{self._name}: the last {self._failures} batches failed: {self._last_failure}"

    def late(self, allowed_s: float) -> str | None:
        """Say since when a job runs for longer than this, or None; its end ends it."""
        since_s = list(self._running.values())  # at once, as threads come and go meanwhile
        oldest_s = self._clock() - min(since_s) if since_s else 0
        if oldest_s <= allowed_s:
            return None
        return f"{self._name}: a job has not ended for {oldest_s:.0f} s"


class Health:
    """What is wrong with the service, by what its monitors say.

    Args:
        longest_job_s: that a job may take; one that takes longer hangs.
        clock: tells the time in seconds.

    Attributes:
        draining: whether it shuts down.
    """

    def __init__(
        self,
        longest_job_s: float = math.inf,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.draining = False
        self._longest_job_s = longest_job_s
        self._clock = clock
        self._monitors: list[Monitor] = []

    def monitor(self, name: str) -> Monitor:
        """Watch one pool of threads more."""
        monitor = Monitor(name, self._clock)
        self._monitors.append(monitor)
        return monitor

    @property
    def dead(self) -> str | None:
        """Why only a new process can help, or None."""
        for monitor in self._monitors:
            if monitor.dead:
                return monitor.dead
        for monitor in self._monitors:
            if stuck := monitor.late(_STUCK * self._longest_job_s):
                return f"{stuck}, {_REMEDY}"
        return None

    @property
    def failing(self) -> str | None:
        """The reason if the last batches of a replica failed, else None."""
        return _first(monitor.failing for monitor in self._monitors)

    @property
    def hanging(self) -> str | None:
        """The reason if a job of a pool runs longer than it may, else None."""
        return _first(monitor.late(self._longest_job_s) for monitor in self._monitors)

    @property
    def unready(self) -> str | None:
        """Why no new requests should come, or None."""
        stopping = "shutting down" if self.draining else None
        return self.dead or self.failing or self.hanging or stopping


def _first(faults: Iterator[str | None]) -> str | None:
    return next(filter(None, faults), None)

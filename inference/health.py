"""Health of the service, from reports about threads and batches. It knows no HTTP and no model.

each replica of each scheduler: its batches, its thread's jobs -> Monitor -.
each pool for preprocessing:    its threads' jobs              -> Monitor --> Health -> probes
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

from errors import DeviceLostError

# A single failed batch is no fault; this many in a row are.
_FAILURES_IN_A_ROW = 3
# A job that takes this many times the maximum duration never ends: only a new process gets rid of
# its thread.
_STUCK = 3
# What helps if a pool is dead.
RESTART, RELOAD = "start the service anew", "only a new load helps"


class Monitor:
    """Monitors a pool of threads, which report their jobs and batches; thread-safe.

    Args:
        name: name of the pool.
        clock: function that returns the time in seconds.
        remedy: advice in the reason of a dead pool.

    Attributes:
        dead: the reason if the pool cannot compute any more, else None.
    """

    def __init__(
        self,
        name: str,
        clock: Callable[[], float] = time.perf_counter,
        remedy: str = RESTART,
    ) -> None:
        self.dead: str | None = None
        self._name = name
        self._clock = clock
        self._remedy = remedy
        self._running: dict[object, float] = {}  # start times of jobs
        self._failures = 0
        self._last_failure = ""

    def job_began(self, job: object) -> None:
        """Report that a thread has begun a job."""
        self._running[job] = self._clock()

    def job_ended(self, job: object) -> None:
        """Report that the result of a job was delivered."""
        self._running.pop(job, None)

    def batch_succeeded(self) -> None:
        """Report a batch of which at least one item was computed."""
        self._failures = 0

    def batch_failed(self, error: Exception) -> None:
        """Report a batch of which no item was computed."""
        self._failures += 1
        self._last_failure = str(error) or type(error).__name__
        if isinstance(error, DeviceLostError):
            self.died("the device is lost", self._last_failure)

    def died(self, fault: str, reason: str) -> None:
        """Report that the pool cannot compute any more; only the first report is kept."""
        self.dead = self.dead or f"{fault}, {self._remedy}: {reason}"

    @property
    def is_idle(self) -> bool:
        """Whether no job runs."""
        return not self._running

    @property
    def failing(self) -> str | None:
        """Return the reason if the last batches failed, else None; the next success clears it."""
        if self._failures < _FAILURES_IN_A_ROW:
            return None
        return f"{self._name}: the last {self._failures} batches failed: {self._last_failure}"

    def late(self, allowed_s: float) -> str | None:
        """Return a message if a job has run for over `allowed_s` seconds, else None."""
        since_s = list(self._running.values())  # a copy, as threads change it meanwhile
        oldest_s = self._clock() - min(since_s) if since_s else 0
        if oldest_s <= allowed_s:
            return None
        return f"{self._name}: a job has not ended for {oldest_s:.0f} s"


class Health:
    """The health of the service, from the reports of its monitors.

    Args:
        longest_job_s: maximum duration of a job in seconds; a longer job counts as hanging.
        clock: function that returns the time in seconds.
        remedy: advice in the reason of a dead pool.
    """

    def __init__(
        self,
        longest_job_s: float = math.inf,
        clock: Callable[[], float] = time.perf_counter,
        remedy: str = RESTART,
    ) -> None:
        self._remedy = remedy
        self._longest_job_s = longest_job_s
        self._clock = clock
        self._monitors: list[Monitor] = []

    def monitor(self, name: str) -> Monitor:
        """Add and return the monitor of a pool."""
        monitor = Monitor(name, self._clock, self._remedy)
        self._monitors.append(monitor)
        return monitor

    @property
    def dead(self) -> str | None:
        """Return the reason if a pool cannot compute any more, else None."""
        for monitor in self._monitors:
            if monitor.dead:
                return monitor.dead
        for monitor in self._monitors:
            if stuck := monitor.late(_STUCK * self._longest_job_s):
                return f"{stuck}, {self._remedy}"
        return None

    @property
    def failing(self) -> str | None:
        """Return the reason if the last batches of a replica failed, else None."""
        return _first(monitor.failing for monitor in self._monitors)

    @property
    def hanging(self) -> str | None:
        """Return the reason if a job runs for too long, else None."""
        return _first(monitor.late(self._longest_job_s) for monitor in self._monitors)

    @property
    def unready(self) -> str | None:
        """Return the reason if the service is not ready for requests, else None."""
        return self.dead or self.failing or self.hanging


def _first(faults: Iterator[str | None]) -> str | None:
    return next(filter(None, faults), None)

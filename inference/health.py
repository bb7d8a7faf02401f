"""Whether the service can do its work, as its own batches show it. Knows no HTTP and no model."""

from __future__ import annotations

from inference.errors import DeviceLostError

# One bad batch is an accident; so many in a row, and none that succeeded between, are a fault.
_FAILURES_IN_A_ROW = 3


class Health:
    """Hears how batches end, and says what is wrong; safe to be told from several threads."""

    def __init__(self) -> None:
        self.draining = False
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
    def unready(self) -> str | None:
        """Why no new requests should come, or None."""
        return self.dead or self.failing or ("shutting down" if self.draining else None)

    def batch_succeeded(self) -> None:
        """A batch was computed."""
        self._failures = 0

    def batch_failed(self, error: Exception) -> None:
        """A batch was not."""
        self._failures += 1
        self._last_failure = str(error) or type(error).__name__
        if isinstance(error, DeviceLostError):
            self._lost = f"the device is lost, start the service anew: {self._last_failure}"

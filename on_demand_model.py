"""A model of MODELS_ON_DEMAND: its load for requests, and its pauses after failures and deaths."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Container, Coroutine, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from config import Settings
from errors import NotLoadedError
from inference.health import Monitor
from inference.tasks import background
from inference.worker_pool import WorkerPool

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 30.0, 300.0  # after a load that failed, or a death
_RETRY_S = 10  # for clients of a model that is being converted, or whose load hangs
_WATCH_S = 1.0  # pause between two checks whether a load hangs


class OnDemandModel:
    """A model that is loaded when a request needs it.

    Args:
        name: its name.
        settings: its settings.
        loaded: tells by a model's name whether it is loaded now.
        start_load: function that loads it once there is room, and records the end of the load.

    Attributes:
        name: its name.
        settings: its settings.
        loader: the thread that loads it.
        looked_up: set once it is known whether it must be converted.
        is_prepared: whether nothing is left to convert.
        waiting: number of requests that wait for it to be loaded.
        nbytes: measured memory of the loaded model and of its largest batch; 0 before its first
            load.
        claimed_bytes: memory that its load in progress is expected to take; 0 if there is none.
        dead: why it died and why loading it again failed, if both happened; else None.
        is_closed: whether the service ends, and begins no more loads.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        loaded: Container[str],
        start_load: Callable[[OnDemandModel], Coroutine[Any, Any, None]],
    ) -> None:
        self.name = name
        self.settings = settings
        self.loader = WorkerPool(1, f"load-{name}", Monitor("loader"))
        self.looked_up = asyncio.Event()
        self.is_prepared = False
        self.waiting = 0
        self.nbytes = 0
        self.claimed_bytes = 0
        self.dead: str | None = None
        self.is_closed = False
        self._loaded = loaded
        self._start_load = start_load
        self._fault = ""  # why its last load failed, or why it died
        self._death = ""  # why it died, until it is loaded again
        self._refusal = ""
        self._pause_s = 0.0
        self._retry_at_s = 0.0
        self._retry: asyncio.TimerHandle | None = None
        self._loading: asyncio.Task[None] | None = None
        self._began_s = math.inf  # timestamp of the load in progress

    async def load(self) -> None:
        """Load the model if it is not loaded.

        The caller counts its request in `Vectorizer.in_flight` before it next awaits.

        Raises:
            NotLoadedError: it cannot be loaded now.
        """
        self.waiting += 1
        try:
            while self.name not in self._loaded:
                await self.looked_up.wait()
                self._check()
                # The load goes on if the client disconnects. A load that hangs keeps no client.
                await asyncio.wait([self._begin()], timeout=_WATCH_S)
        finally:
            self.waiting -= 1

    def _begin(self) -> asyncio.Task[None]:
        if self._loading is None or self._loading.done():
            self._loading = background(self._start_load(self), name=f"load-{self.name}")
        return self._loading

    def _check(self) -> None:
        is_loading = self._loading is not None and not self._loading.done()
        if self.is_closed and not is_loading:
            raise NotLoadedError("shutting down", retry_after_s=1)
        if not self.is_prepared:
            raise NotLoadedError(
                f"model {self.name} is being converted, which takes minutes: try again later",
                retry_after_s=_RETRY_S,
            )
        if hanging := self._hanging():
            raise NotLoadedError(f"model {self.name}: {hanging}", retry_after_s=_RETRY_S)
        wait_s = self._retry_at_s - monotonic()
        if wait_s > 0:
            raise NotLoadedError(self._refusal, retry_after_s=math.ceil(wait_s))

    def _hanging(self) -> str | None:
        """Return a message if its load takes longer than any answer may, else None."""
        took_s = monotonic() - self._began_s
        is_late = took_s > self.settings.request_timeout_s
        return f"its load has not ended for {took_s:.0f} s" if is_late else None

    @property
    def unready(self) -> str | None:
        """Return the reason if it cannot be loaded, else None."""
        return self._fault or self._hanging()

    @contextmanager
    def being_loaded(self) -> Iterator[None]:
        """Record the begin and the end of a load."""
        self._began_s = monotonic()
        try:
            yield
        finally:
            self._began_s, self.claimed_bytes = math.inf, 0

    def succeeded(self, nbytes: int) -> None:
        """Record a load that succeeded."""
        self.nbytes, self.claimed_bytes = nbytes, 0
        self.dead = None
        self._fault = self._death = ""
        if self._retry:
            self._retry.cancel()

    def failed(self, reason: str, *, tries_again: bool = True) -> None:
        """Record a load that failed; after a pause a request may try it again.

        Args:
            reason: why it failed.
            tries_again: whether it is also tried again without a request.
        """
        if self._death:
            self.dead = f"{self._death}; loading it again failed: {reason}"
        self._pause(f"could not be loaded: {reason}", tries_again=tries_again)
        logger.warning(
            "Model %s could not be loaded, and is not tried again for %d s: %s",
            self.name,
            self._pause_s,
            reason,
        )

    def died(self, reason: str) -> None:
        """Record that only a new load can help the loaded model; it comes after a pause."""
        self._death = reason
        self._pause(f"died: {reason}", tries_again=True)
        logger.error(
            "Model %s died, and is loaded again in %d s: %s", self.name, self._pause_s, reason
        )

    def _pause(self, fault: str, *, tries_again: bool) -> None:
        """Let no request try a load for a while, which doubles with each fault in a row."""
        self._fault, self._refusal = fault, f"model {self.name} {fault}"
        if monotonic() - self._retry_at_s > _LONGEST_PAUSE_S:
            self._pause_s = 0.0
        self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        self._retry_at_s = monotonic() + self._pause_s
        if tries_again:  # while no model is ready, a balancer sends no request that would try it
            self._retry = asyncio.get_running_loop().call_later(self._pause_s, self._begin)

    def has_no_room(self) -> None:
        """Record that other models take the memory, which is no fault of this model."""
        self._refusal = (
            f"no room for model {self.name}: MODELS_MEMORY_BYTES is taken by models with requests "
            "in flight"
        )
        self._retry_at_s = monotonic() + 1

    async def aclose(self) -> None:
        """End a load that is in progress, and let no request wait for it."""
        self.looked_up.set()
        for running in (self._loading, self._retry):
            if running:
                running.cancel()
        await self.loader.aclose()

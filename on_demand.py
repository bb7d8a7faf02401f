"""MODELS_ON_DEMAND: loads a model when the first request for it comes, and unloads it later.

    prepare   after the start, in the background: models are converted, one after the other
    load      the request waits for its model, in a thread of the model; requests for other models
              do not wait
    unload    a model without requests in flight: idle for MODELS_IDLE_S, or the least recently used
              if MODELS_MEMORY_BYTES leaves no room for another model; and a model that died

Loads and unloads take turns, so that the memory of each model can be measured. A load that waits
for room, or that hangs, does not keep the turn. This module knows no HTTP.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from time import monotonic
from typing import Literal, TypeAlias, get_args

from backends.load import convert_ahead, needs_conversion, stored_bytes
from config import Settings
from errors import DoesNotFitError, NotLoadedError, describe_error
from inference.health import Monitor
from inference.tasks import background
from inference.worker_pool import WorkerPool
from machine import freeze_gc, give_freed_memory_back, resident_bytes
from vectorizer import Resources, Vectorizer

logger = logging.getLogger(__name__)

MakeVectorizer: TypeAlias = Callable[[Settings, Resources], Awaitable[Vectorizer]]
Unloading: TypeAlias = Literal["idle", "memory", "died"]  # why a model is unloaded
UNLOADINGS: tuple[Unloading, ...] = get_args(Unloading)

_WHY: Mapping[Unloading, str] = {
    "idle": "after MODELS_IDLE_S without a request",
    "memory": "to make room",
    "died": "as it died",
}
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 30.0, 300.0  # after a load that failed, or a death
_RETRY_S = 10  # for clients of a model that is being converted, or whose load hangs
_LOOK_S = 0.05  # pause between two checks whether there is room
_WATCH_S = 1.0  # pause between two checks of the health of models, and whether a load hangs


class OnDemandModel:
    """A model that is loaded when a request needs it.

    Args:
        name: its name.
        settings: its settings.
        owner: loads it.

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
        dead: why it died, if loading it again failed too; else None.
    """

    def __init__(self, name: str, settings: Settings, owner: OnDemand) -> None:
        self.name = name
        self.settings = settings
        self.loader = WorkerPool(1, f"load-{name}", Monitor("loader"))
        self.looked_up = asyncio.Event()
        self.is_prepared = False
        self.waiting = 0
        self.nbytes = 0
        self.claimed_bytes = 0
        self.dead: str | None = None
        self._owner = owner
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
            while self.name not in self._owner.loaded:
                await self.looked_up.wait()
                self._check()
                # The load goes on if the client disconnects. A load that hangs keeps no client.
                await asyncio.wait([self._begin()], timeout=_WATCH_S)
        finally:
            self.waiting -= 1

    def _is_loading(self) -> bool:
        return self._loading is not None and not self._loading.done()

    def _begin(self) -> asyncio.Task[None]:
        if self._loading is None or self._loading.done():
            self._loading = background(self._owner.load(self), name=f"load-{self.name}")
        return self._loading

    def _check(self) -> None:
        if self._owner.is_closed and not self._is_loading():
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
        self.dead = self._death or None
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


class OnDemand:
    """Loads and unloads the models of a service.

    Args:
        settings: the settings of the service.
        by_name: the settings of each model.
        make_vectorizer: function that loads a model by its settings.

    Attributes:
        models: the models by name.
        loaded: the loaded models by name.
        on_load: called with a model's name, the model and the seconds of its load; a
            `ConfigurationError` that it raises fails the load.
        on_failure: called with a model's name when its load failed.
        on_unload: called with a model's name and the reason before the model is unloaded.
        is_closed: whether the service ends, and begins no more loads.
    """

    def __init__(
        self, settings: Settings, by_name: Mapping[str, Settings], make_vectorizer: MakeVectorizer
    ) -> None:
        self.models = {name: OnDemandModel(name, own, self) for name, own in by_name.items()}
        self.loaded: dict[str, Vectorizer] = {}
        self.on_load: Callable[[str, Vectorizer, float], None] = _nothing
        self.on_failure: Callable[[str], None] = _nothing
        self.on_unload: Callable[[str, Unloading], None] = _nothing
        self.is_closed = False
        self._settings = settings
        self._limit = settings.models_memory_bytes or sys.maxsize
        self._make_vectorizer = make_vectorizer
        # No probe reads this monitor, as a conversion may take minutes.
        self._converter = WorkerPool(1, "model-converter", Monitor("converter"))
        self._resources = Resources.of(settings)
        self._turn = asyncio.Lock()  # held during a load or an unload
        self._tasks = [
            background(self._prepare(), name="prepare-models"),
            background(self._unload_dead(), name="unload-dead"),
        ]
        if settings.models_idle_s is not None:
            self._tasks.append(background(self._unload_idle(settings.models_idle_s), "unload-idle"))

    async def load(self, model: OnDemandModel) -> None:
        """Load a model once there is room for it; a failure is recorded in the model."""
        ends_s = monotonic() + self._settings.request_timeout_s / 2
        needed = 0
        try:
            while not self.is_closed and model.name not in self.loaded:
                async with self._in_turn():
                    with model.being_loaded():
                        needed = needed or await self._needed_bytes(model)
                        if await self._make_room(needed):
                            model.claimed_bytes = needed
                            await self._load(model)
                            return
                if monotonic() > ends_s:
                    model.has_no_room()
                    return
                await asyncio.sleep(_LOOK_S)  # meanwhile other models that fit may be loaded
        except Exception as error:  # noqa: BLE001 - any failure is the model's
            # A model that does not fit will not fit later.
            model.failed(describe_error(error), tries_again=not isinstance(error, DoesNotFitError))
            self.on_failure(model.name)

    @asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        """Hold the turn, but at most REQUEST_TIMEOUT_S: a load that hangs must not block others."""
        await self._turn.acquire()
        held = ExitStack()
        held.callback(self._turn.release)
        longest_s = self._settings.request_timeout_s
        timer = asyncio.get_running_loop().call_later(longest_s, held.close)
        try:
            yield
        finally:
            timer.cancel()
            held.close()

    async def _needed_bytes(self, model: OnDemandModel) -> int:
        """Return the memory that a model will take, as far as it is known.

        Before the first load, the size of the model's files is the estimate. It may be too high, as
        only one of several formats is loaded. So no estimate exceeds the limit.
        """
        if not self._settings.models_memory_bytes:
            return 0  # any model fits
        known = model.nbytes or await model.loader.run(stored_bytes, model.settings)
        return min(known, self._limit)

    async def _load(self, model: OnDemandModel) -> None:
        began_s = monotonic()
        vectorizer, nbytes = await self._measured_load(model)
        if nbytes > self._limit:
            # The first model of a runtime brings the memory of its libraries, so it is loaded and
            # measured once more.
            await vectorizer.aclose()
            del vectorizer
            await asyncio.to_thread(_free_memory)
            vectorizer, nbytes = await self._measured_load(model)
        seconds = monotonic() - began_s
        try:
            self._check_fits(model, nbytes)
            self.on_load(model.name, vectorizer, seconds)
        except BaseException:
            await vectorizer.aclose()
            raise
        model.succeeded(nbytes)
        self.loaded[model.name] = vectorizer
        logger.info(
            "Model %s was loaded on demand in %.1f s; it takes %.0f MB",
            model.name,
            seconds,
            nbytes / 1e6,
        )
        # A load may take more than was expected. Busy models can be unloaded before the next load.
        await self._unload_until_fits(keeps=model.name)

    async def _measured_load(self, model: OnDemandModel) -> tuple[Vectorizer, int]:
        """Load a model; return it, and the bytes by which the process grew."""
        # Otherwise the model reuses this memory, and its growth is measured too small.
        await asyncio.to_thread(give_freed_memory_back)
        before = resident_bytes()
        resources = replace(self._resources, loader=model.loader)
        vectorizer = await self._make_vectorizer(model.settings, resources)
        nbytes = max(resident_bytes() - before, 1)
        await asyncio.to_thread(give_freed_memory_back)  # of the largest batch, now measured
        return vectorizer, nbytes

    async def _make_room(self, needed: int) -> bool:
        """Unload idle models until another model fits, the least recently used first.

        Args:
            needed: bytes that the other model needs.

        Returns:
            Whether there is room. If idle models cannot make enough room, none is unloaded.
        """
        idle = sum(self.models[name].nbytes for name in self.loaded if self._is_idle(name))
        if self._taken() - idle + needed > self._limit:
            return False
        return await self._unload_until_fits(needed)

    async def _unload_until_fits(self, needed: int = 0, keeps: str = "") -> bool:
        """Unload idle models until `needed` bytes are free; return False if the others are busy."""
        while self._taken() + needed > self._limit:
            if not await self._unload_least_used(keeps):
                return False
        return True

    def _check_fits(self, model: OnDemandModel, nbytes: int) -> None:
        if nbytes > self._limit:
            raise DoesNotFitError(
                f"model {model.name} takes {nbytes} bytes; MODELS_MEMORY_BYTES allows "
                f"{self._limit} for all models"
            )

    def _is_idle(self, name: str) -> bool:
        """Return whether a model has no request in flight, and none that waits for its load."""
        return not self.loaded[name].in_flight and not self.models[name].waiting

    def _taken(self) -> int:
        """Return the bytes of loaded models, and the bytes expected by loads in progress."""
        claimed = sum(model.claimed_bytes for model in self.models.values())
        return claimed + sum(self.models[name].nbytes for name in self.loaded)

    async def _unload_least_used(self, keeps: str = "") -> bool:
        """Unload the idle model that was not used for longest; return False if all are busy."""
        idle = [
            (vectorizer.used_at_s, name)
            for name, vectorizer in self.loaded.items()
            if self._is_idle(name) and name != keeps
        ]
        if not idle:
            return False
        await self._unload(min(idle)[1], "memory")
        return True

    async def _unload(self, name: str, why: Unloading) -> None:
        """Unload a model; from now on requests load it anew."""
        self.on_unload(name, why)
        vectorizer = self.loaded.pop(name)
        await vectorizer.aclose()
        del vectorizer
        await asyncio.to_thread(_free_memory)
        logger.info("Model %s was unloaded %s", name, _WHY[why])

    async def _unload_idle(self, idle_s: float) -> None:
        while True:
            await asyncio.sleep(min(idle_s / 4, 5))
            async with self._in_turn():
                oldest_s = time.perf_counter() - idle_s
                # No variable may hold a model, or its memory is not freed.
                old = [name for name, one in self.loaded.items() if one.used_at_s < oldest_s]
                for name in old:
                    if name in self.loaded and self._is_idle(name):
                        await self._unload(name, "idle")

    async def _unload_dead(self) -> None:
        """Unload models that died, at once and not in turn, as they fail every request."""
        while True:
            await asyncio.sleep(_WATCH_S)
            for name in list(self.loaded):
                if name in self.loaded and (reason := self.loaded[name].health.dead):
                    self.models[name].died(reason)
                    await self._unload(name, "died")

    async def _prepare(self) -> None:
        """Convert the models that are not converted, one after the other."""
        for model in self.models.values():  # models that are converted already are ready first
            model.is_prepared = not await self._converter.run(needs_conversion, model.settings)
            model.looked_up.set()
        for model in self.models.values():
            if not model.is_prepared:
                await self._converter.run(convert_ahead, model.settings)
                model.is_prepared = True

    def drain(self) -> None:
        """Begin no more loads; loads in progress go on, as requests in flight wait for them."""
        self.is_closed = True

    async def aclose(self) -> None:
        """Stop: no model is loaded from now on, and all are closed."""
        self.is_closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        closing = [model.aclose() for model in self.models.values()]
        await asyncio.gather(self._converter.aclose(), *closing)
        async with self._turn:
            for vectorizer in self.loaded.values():
                await vectorizer.aclose()


def _nothing(*_: object) -> None:
    """Do nothing."""


def _free_memory() -> None:
    """Collect the cycles of an unloaded model, and return its memory to the kernel."""
    gc.unfreeze()
    freeze_gc()
    give_freed_memory_back()

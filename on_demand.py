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
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from time import monotonic
from typing import Literal, TypeAlias, get_args

from backends.jobs import stop_jobs
from backends.load import convert_ahead, needs_conversion, stored_bytes
from config import Settings
from errors import DoesNotFitError, describe_error
from inference.health import Monitor
from inference.tasks import background
from inference.worker_pool import WorkerPool
from machine import freeze_gc, give_freed_memory_back, resident_bytes
from on_demand_model import OnDemandModel
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
_LOOK_S = 0.05  # pause between two checks whether there is room
_WATCH_S = 1.0  # pause between two checks of the health of models


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
    """

    def __init__(
        self, settings: Settings, by_name: Mapping[str, Settings], make_vectorizer: MakeVectorizer
    ) -> None:
        self.loaded: dict[str, Vectorizer] = {}
        self.models = {
            name: OnDemandModel(name, own, self.loaded, self.load) for name, own in by_name.items()
        }
        self.on_load: Callable[[str, Vectorizer, float], None] = _nothing
        self.on_failure: Callable[[str], None] = _nothing
        self.on_unload: Callable[[str, Unloading], None] = _nothing
        self._settings = settings
        self._limit = settings.models_memory_bytes or sys.maxsize
        self._make_vectorizer = make_vectorizer
        # No probe reads this monitor, as a conversion may take minutes.
        self._converter = WorkerPool(1, "model-converter", Monitor("converter"))
        self._resources = Resources.of(settings)
        self._turn = asyncio.Lock()  # held during a load or an unload
        self._has_failed = asyncio.Event()  # set after a failed load: its memory is to be freed
        self._tasks = [
            background(self._prepare(), name="prepare-models"),
            background(self._unload_dead(), name="unload-dead"),
            background(self._free_failed(), name="free-failed"),
        ]
        if settings.models_idle_s is not None:
            self._tasks.append(background(self._unload_idle(settings.models_idle_s), "unload-idle"))

    async def load(self, model: OnDemandModel) -> None:
        """Load a model once there is room for it; a failure is recorded in the model."""
        ends_s = monotonic() + self._settings.request_timeout_s / 2
        needed = 0
        try:
            while not model.is_closed and model.name not in self.loaded:
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
            self._has_failed.set()

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
        """Unload idle models until `needed` bytes are free, the least recently used first.

        Args:
            needed: bytes.
            keeps: name of a model that is not unloaded.

        Returns:
            False if the other models are busy before so much is free.
        """
        while self._taken() + needed > self._limit:
            idle = [
                (vectorizer.used_at_s, name)
                for name, vectorizer in self.loaded.items()
                if self._is_idle(name) and name != keeps
            ]
            if not idle:
                return False
            await self._unload(min(idle)[1], "memory")
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

    async def _free_failed(self) -> None:
        """Free the memory of loads that failed.

        Not as a part of the load: its requests would wait for the turn, and the error still refers
        to the model.
        """
        while True:
            await self._has_failed.wait()
            self._has_failed.clear()
            async with self._in_turn():
                await asyncio.to_thread(_free_memory)

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
        for model in self.models.values():
            model.is_closed = True

    async def aclose(self) -> None:
        """Stop: no model is loaded from now on, and all are closed."""
        self.drain()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        stop_jobs()  # a conversion in the background
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

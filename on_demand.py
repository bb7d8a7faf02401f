"""MODELS_ON_DEMAND: loads a model when the first request for it comes, and unloads it later.

    prepare   after the start, in the background: models are converted, one after the other
    load      the request waits for its model, in a thread; requests for other models do not wait
    unload    a model without requests in flight: idle for MODELS_IDLE_S, or the least recently used
              if MODELS_MEMORY_BYTES leaves no room for another model

Only one model is loaded or unloaded at a time, so that the memory of each can be measured. This
module knows no HTTP.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from time import monotonic
from typing import TypeAlias

from backends.load import convert_ahead, stored_bytes
from config import Settings
from errors import DoesNotFitError, NotLoadedError, describe_error
from inference.health import Health
from inference.tasks import background
from inference.worker_pool import WorkerPool
from machine import freeze_gc, give_freed_memory_back, resident_bytes
from vectorizer import Resources, Vectorizer

logger = logging.getLogger(__name__)

MakeVectorizer: TypeAlias = Callable[[Settings, Resources], Awaitable[Vectorizer]]

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 30.0, 300.0  # after a load that failed
_PREPARING_RETRY_S = 10
_LOOK_S = 0.05  # pause between two checks whether a model has become idle


class OnDemandModel:
    """A model that is loaded when a request needs it.

    Args:
        name: its name.
        settings: its settings.
        owner: loads it.

    Attributes:
        name: its name.
        settings: its settings.
        fault: why its last load failed; empty if it did not.
        looked_up: set once it is known whether it must be converted.
        is_prepared: whether nothing is left to convert.
        waiting: number of requests that wait for it to be loaded.
        nbytes: measured memory of the loaded model and of its largest batch; 0 before its first
            load.
    """

    def __init__(self, name: str, settings: Settings, owner: OnDemand) -> None:
        self.name = name
        self.settings = settings
        self.fault = ""
        self.is_prepared = False
        self.waiting = 0
        self.nbytes = 0
        self.looked_up = asyncio.Event()
        self._owner = owner
        self._refusal = ""
        self._pause_s = 0.0
        self._retry_at_s = 0.0
        self._retry: asyncio.TimerHandle | None = None
        self._loading: asyncio.Task[None] | None = None

    async def load(self) -> Vectorizer:
        """Return the loaded model; load it first if it is not.

        The caller counts its request in `Vectorizer.in_flight` before it next awaits.

        Raises:
            NotLoadedError: it cannot be loaded now.
        """
        self.waiting += 1
        try:
            while self.name not in self._owner.loaded:
                await self.looked_up.wait()
                self._check()
                await asyncio.wait([self._begin()])  # goes on if the client disconnects
            return self._owner.loaded[self.name]
        finally:
            self.waiting -= 1

    def _begin(self) -> asyncio.Task[None]:
        if self._loading is None or self._loading.done():
            self._loading = background(self._owner.load(self), name=f"load-{self.name}")
        return self._loading

    def cancel(self) -> None:
        """End a load that is in progress, and let no request wait for it."""
        self.looked_up.set()
        for running in (self._loading, self._retry):
            if running:
                running.cancel()

    def _check(self) -> None:
        if self._owner.is_closed:
            raise NotLoadedError("shutting down", retry_after_s=1)
        if not self.is_prepared:
            raise NotLoadedError(
                f"model {self.name} is being converted, which takes minutes: try again later",
                retry_after_s=_PREPARING_RETRY_S,
            )
        wait_s = self._retry_at_s - monotonic()
        if wait_s > 0:
            raise NotLoadedError(self._refusal, retry_after_s=math.ceil(wait_s))

    def succeeded(self, nbytes: int) -> None:
        """Record a load that succeeded."""
        self.nbytes = nbytes
        self.fault = ""
        self._pause_s = 0.0
        if self._retry:
            self._retry.cancel()

    def failed(self, fault: str, *, tries_again: bool = True) -> None:
        """Record a load that failed; after a pause, which doubles, a request may try it again.

        Args:
            fault: why it failed.
            tries_again: whether it is also tried again without a request.
        """
        self.fault = f"could not be loaded: {fault}"
        self._refusal = f"model {self.name} {self.fault}"
        self._pause_s = min(max(2 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        self._retry_at_s = monotonic() + self._pause_s
        if tries_again:  # while no model is ready, a balancer sends no request that would try it
            self._retry = asyncio.get_running_loop().call_later(self._pause_s, self._begin)
        logger.warning(
            "Model %s could not be loaded, and is not tried again for %d s: %s",
            self.name,
            self._pause_s,
            fault,
        )

    def has_no_room(self) -> None:
        """Record that other models take the memory, which is no fault of this model."""
        self._refusal = (
            f"no room for model {self.name}: MODELS_MEMORY_BYTES is taken by models with requests "
            "in flight"
        )
        self._retry_at_s = monotonic() + 1


class OnDemand:
    """Loads and unloads the models of a service.

    Args:
        settings: the settings of the service.
        by_name: the settings of each model.
        make_vectorizer: function that loads a model by its settings.

    Attributes:
        models: the models by name.
        loaded: the loaded models by name.
        on_load: called with a model's name and the model when it was loaded; a `ConfigurationError`
            of it is a failure of the load.
        on_unload: called with a model's name before it is unloaded.
        is_closed: whether the service ends, and loads no more.
    """

    def __init__(
        self, settings: Settings, by_name: Mapping[str, Settings], make_vectorizer: MakeVectorizer
    ) -> None:
        self.models = {name: OnDemandModel(name, own, self) for name, own in by_name.items()}
        self.loaded: dict[str, Vectorizer] = {}
        self.on_load: Callable[[str, Vectorizer], None] = _nothing
        self.on_unload: Callable[[str], None] = _nothing
        self.is_closed = False
        self._settings = settings
        self._make_vectorizer = make_vectorizer
        health = Health()  # no probe reads it, as a conversion may take minutes
        self._loader = WorkerPool(1, "model-loader", health.monitor("model-loader"))
        self._converter = WorkerPool(1, "model-converter", health.monitor("model-converter"))
        self._resources = replace(Resources.of(settings), loader=self._loader)
        self._turn = asyncio.Lock()  # held during a load or an unload
        self._tasks = [background(self._prepare(), name="prepare-models")]
        if settings.models_idle_s is not None:
            self._tasks.append(background(self._unload_idle(settings.models_idle_s), "unload-idle"))

    async def load(self, model: OnDemandModel) -> None:
        """Load a model, and make room for it first; a failure is recorded in the model."""
        async with self._turn:
            if model.name in self.loaded or self.is_closed:
                return
            try:
                if await self._make_room(model):
                    await self._load(model)
                else:
                    model.has_no_room()
            except Exception as error:  # noqa: BLE001 - any failure is the model's
                # A model that does not fit will not fit later.
                tries_again = not isinstance(error, DoesNotFitError)
                model.failed(describe_error(error), tries_again=tries_again)

    async def _load(self, model: OnDemandModel) -> None:
        began_s = monotonic()
        vectorizer, nbytes = await self._measured_load(model)
        if not self._fits(nbytes):
            # The first model of a runtime brings the memory of its libraries, so it is loaded and
            # measured once more.
            await vectorizer.aclose()
            del vectorizer
            await self._loader.run(_free_memory)
            vectorizer, nbytes = await self._measured_load(model)
        try:
            self._check_fits(model, nbytes)
            self.on_load(model.name, vectorizer)
        except BaseException:
            await vectorizer.aclose()
            raise
        model.succeeded(nbytes)
        self.loaded[model.name] = vectorizer
        logger.info(
            "Model %s was loaded on demand in %.1f s; it takes %.0f MB with its largest batch",
            model.name,
            monotonic() - began_s,
            nbytes / 1e6,
        )
        await self._trim(keeps=model.name)

    async def _measured_load(self, model: OnDemandModel) -> tuple[Vectorizer, int]:
        """Load a model; return it, and the bytes by which the process grew."""
        give_freed_memory_back()  # otherwise the model may take it, and seem smaller
        before = resident_bytes()
        vectorizer = await self._make_vectorizer(model.settings, self._resources)
        return vectorizer, max(resident_bytes() - before, 1)

    async def _make_room(self, model: OnDemandModel) -> bool:
        """Unload models until `model` fits, the least recently used first; wait for idle models.

        Before the first load, the size of the model's files is the estimate of its memory. It may
        be too high, as only one of several formats is loaded. So no estimate exceeds the limit.

        Returns:
            Whether there is room in time.
        """
        limit = self._settings.models_memory_bytes
        if not limit:
            return True
        needed = model.nbytes or await self._loader.run(stored_bytes, model.settings)
        needed = min(needed, limit)
        ends_s = monotonic() + self._settings.request_timeout_s / 2
        while self._taken() + needed > limit:
            if await self._unload_least_used("to make room"):
                continue
            if monotonic() > ends_s:
                return False
            await asyncio.sleep(_LOOK_S)
        return True

    async def _trim(self, keeps: str) -> None:
        """Unload idle models beyond the limit, as a load may take more than was expected."""
        limit = self._settings.models_memory_bytes
        while limit and self._taken() > limit:
            if not await self._unload_least_used("to make room", keeps):
                return  # the others are busy, and can be unloaded before the next load

    def _fits(self, nbytes: int) -> bool:
        limit = self._settings.models_memory_bytes
        return not limit or nbytes <= limit

    def _check_fits(self, model: OnDemandModel, nbytes: int) -> None:
        if not self._fits(nbytes):
            raise DoesNotFitError(
                f"model {model.name} takes {nbytes} bytes; MODELS_MEMORY_BYTES allows "
                f"{self._settings.models_memory_bytes} for all models"
            )

    def _is_idle(self, name: str) -> bool:
        """Return whether a model has no request in flight, and none that waits for its load."""
        return not self.loaded[name].in_flight and not self.models[name].waiting

    def _taken(self) -> int:
        return sum(self.models[name].nbytes for name in self.loaded)

    async def _unload_least_used(self, why: str, keeps: str = "") -> bool:
        """Unload the idle model that was not used for longest; return False if all are busy."""
        idle = [
            (vectorizer.used_at_s, name)
            for name, vectorizer in self.loaded.items()
            if self._is_idle(name) and name != keeps
        ]
        if not idle:
            return False
        await self._unload(min(idle)[1], why)
        return True

    async def _unload(self, name: str, why: str) -> None:
        """Unload a model without requests in flight; from now on requests load it anew."""
        self.on_unload(name)
        vectorizer = self.loaded.pop(name)
        await vectorizer.aclose()
        del vectorizer
        await self._loader.run(_free_memory)
        logger.info("Model %s was unloaded %s", name, why)

    async def _unload_idle(self, idle_s: float) -> None:
        while True:
            await asyncio.sleep(min(idle_s / 4, 5))
            async with self._turn:
                oldest_s = time.perf_counter() - idle_s
                # No variable may hold a model, or its memory is not freed.
                old = [name for name, one in self.loaded.items() if one.used_at_s < oldest_s]
                for name in old:
                    if self._is_idle(name):
                        await self._unload(name, f"after {idle_s:g} s without a request")

    async def _prepare(self) -> None:
        """Convert the models that are not converted, one after the other."""
        for is_patient in (False, True):  # models that are converted already are ready first
            for model in self.models.values():
                if not model.is_prepared:
                    model.is_prepared = await self._converter.run(
                        convert_ahead, model.settings, is_patient
                    )
                    model.looked_up.set()

    async def aclose(self) -> None:
        """Stop: no model is loaded from now on, and all are closed."""
        self.is_closed = True
        for task in self._tasks:
            task.cancel()
        for model in self.models.values():
            model.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(self._converter.aclose(), self._loader.aclose())
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

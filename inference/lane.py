"""Where the items of one modality wait for the model: admission, a batcher, and a check of results.

entered -> (prepared by the caller) -> compute -> batch -> encode -> checked rows
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from backends.model import Embeddings
from errors import BackendError
from inference.admission import Admission
from inference.batcher import Batcher, BatchStats
from inference.health import Health
from inference.record import Timings

Vector: TypeAlias = npt.NDArray[np.float32]  # [dimensions]
Encode: TypeAlias = Callable[[Sequence[Any]], Embeddings]
BatchHook: TypeAlias = Callable[[str, BatchStats], None]  # the first is the lane's name
_Encoded: TypeAlias = tuple[Vector, float]  # and the seconds that its batch took


class Lane:
    """Waits in line, computes in batches.

    Args:
        name: of the lane, `text` or `image`.
        encodes: the model's function for a batch, one for each replica.
        health: hears how batches end.
        max_batch_size: most items in one batch.
        max_items: most items that wait or are computed.
        timeout_s: longest time from a request to its answer.
    """

    def __init__(
        self,
        name: str,
        encodes: Sequence[Encode],
        health: Health,
        *,
        max_batch_size: int,
        max_items: int,
        timeout_s: float,
    ) -> None:
        self.hooks: list[BatchHook] = []
        self._name = name
        self._replicas = len(encodes)
        self._health = health
        self._admission = Admission(max_items, timeout_s)
        self._batcher = Batcher[Any, _Encoded](
            [partial(self._run, encode) for encode in encodes],
            max_batch_size=max_batch_size,
            name=name,
            observer=self._observe,
        )

    @property
    def items(self) -> int:
        """How many items wait, are prepared or are computed."""
        return self._admission.items

    def entered(self) -> AbstractContextManager[None]:
        """Count an item until it is answered or given up.

        Raises:
            QueueFullError: there are too many, or it could not be answered in time.
        """
        return self._admission.entered()

    async def compute(self, item: Any, timings: Timings) -> Vector:
        """Wait for the vector of an item.

        Raises:
            BackendError: the model failed on it, or answered numbers that are not finite.
        """
        vector, seconds = await self._batcher.submit(item)
        timings.add("encode", seconds)
        return vector

    async def warm_up(self, item: Any, sizes: Sequence[int]) -> None:
        """Let every replica compute batches of these sizes before anything else.

        Raises:
            BackendError: the model failed on it, or answered numbers that are not finite.
        """
        await self._batcher.warm_up(item, sizes)

    async def aclose(self) -> None:
        """Stop; items that still wait are cancelled."""
        await self._batcher.aclose()

    def _observe(self, stats: BatchStats) -> None:
        # Replicas compute side by side: each batch takes the lane a share of its time.
        self._admission.observe(stats.run_s / self._replicas, stats.size)
        for hook in self.hooks:
            hook(self._name, stats)

    def _run(self, encode: Encode, items: Sequence[Any]) -> list[_Encoded | Exception]:
        started_s = time.perf_counter()
        try:
            with self._health.watched():
                rows = encode(items)
        except Exception as error:
            self._health.batch_failed(error)
            raise
        seconds = time.perf_counter() - started_s
        results = [_checked(row, seconds) for row in rows]
        failures = [result for result in results if isinstance(result, Exception)]
        if len(failures) == len(results):
            self._health.batch_failed(failures[0])
        else:
            self._health.batch_succeeded()
        return results


def _checked(row: Vector, seconds: float) -> _Encoded | Exception:
    if not np.isfinite(row).all():
        return BackendError("the model answered numbers that are not finite")
    return row.copy(), seconds  # a copy: a remembered row must not keep its batch in memory

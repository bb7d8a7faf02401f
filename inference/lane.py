"""Where the items of one modality wait for the model: admission, a batcher, and a check of results.

entered -> (prepared by the caller) -> compute -> batch -> encode -> checked rows
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from backends.model import Embeddings
from errors import BackendError
from inference.admission import Admission
from inference.batcher import Batcher
from inference.health import Health
from inference.record import Timings
from inference.runner import BatchStats

Vector: TypeAlias = npt.NDArray[np.float32]  # [dimensions]
Encode: TypeAlias = Callable[[Sequence[Any]], Embeddings]
BatchHook: TypeAlias = Callable[[str, BatchStats], None]  # the first is the lane's name


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
        self._name = name
        self._replicas = len(encodes)
        self._admission = Admission(max_items, timeout_s)
        self._batcher = Batcher[Any, Vector](
            name,
            [partial(_checked_rows, encode) for encode in encodes],
            health,
            max_batch_size=max_batch_size,
        )
        self._batcher.observers.add(self._learn_rate)

    @property
    def items(self) -> int:
        """How many items wait, are prepared or are computed."""
        return self._admission.items

    @property
    def observer_failures(self) -> int:
        """How often one who was told of a pass raised."""
        return self._batcher.observers.failures

    def observe(self, hook: BatchHook) -> None:
        """Tell `hook` of every pass from now on."""
        self._batcher.observers.add(partial(hook, self._name))

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
            UnhealthyError: nothing is computed here any more.
        """
        vector, seconds = await self._batcher.submit(item)
        timings.add("encode", seconds)
        return vector

    async def try_out(self, item: Any, sizes: Sequence[int]) -> None:
        """Let every replica compute batches of these sizes before anything that waits.

        Raises:
            BackendError: the model failed on it, or answered numbers that are not finite.
            UnhealthyError: nothing is computed here any more.
        """
        await self._batcher.try_out(item, sizes)

    async def aclose(self) -> None:
        """Stop; items that still wait are answered with an error."""
        await self._batcher.aclose()

    def _learn_rate(self, stats: BatchStats) -> None:
        if not stats.failed:
            # Replicas compute side by side: each batch takes the lane a share of its time.
            self._admission.observe(stats.run_s / self._replicas, stats.size)


def _checked_rows(encode: Encode, items: Sequence[Any]) -> list[Vector | Exception]:
    return [_checked(row) for row in encode(items)]


def _checked(row: Vector) -> Vector | Exception:
    if not np.isfinite(row).all():
        return BackendError("the model answered numbers that are not finite")
    return row.copy()  # a copy: a remembered row must not keep its batch in memory

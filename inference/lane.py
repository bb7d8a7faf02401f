"""Where the prepared inputs of one modality wait for the model: in fair turns, in batches.

Prepared -> queue -> batch of one bucket -> collate -> network (a thread each) -> checked rows
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np

from backends.model import Prepared, Rows, Tower, Vector
from errors import BackendError
from inference.admission import Admission
from inference.batch_queue import Computed
from inference.batcher import Batcher
from inference.fair_queue import Party
from inference.health import Health
from inference.runner import BatchStats

BatchHook: TypeAlias = Callable[[str, BatchStats], None]  # the first is the lane's name

# No pass may last so long that health takes it for one that hangs: this share of that time.
_LONGEST_PASS = 0.25


class Lane:
    """Waits in line, computes in batches.

    Args:
        name: of the lane, `text` or `image`.
        towers: the same of each replica.
        health: hears how batches end.
        max_batch_size: most items in one batch.
        max_items: most inputs that wait or are computed.
        timeout_s: longest time from a request to its answer.

    Attributes:
        admission: who may wait.
    """

    def __init__(
        self,
        name: str,
        towers: Sequence[Tower],
        health: Health,
        *,
        max_batch_size: int,
        max_items: int,
        timeout_s: float,
    ) -> None:
        self.admission = Admission(max_items, timeout_s, max_batch_size)
        self.max_batch_size = max_batch_size
        self._name = name
        self._replicas = len(towers)
        self._longest_pass_s = _LONGEST_PASS * timeout_s
        self._batcher = Batcher[Prepared, Vector](
            name,
            [partial(_run, tower) for tower in towers],
            health,
            max_batch_size=max_batch_size,
        )
        self._batcher.observers.add(self._learn_rate)

    @property
    def observer_failures(self) -> int:
        """How often one who was told of a pass raised."""
        return self._batcher.observers.failures

    def observe(self, hook: BatchHook) -> None:
        """Tell `hook` of every pass from now on."""
        self._batcher.observers.add(partial(hook, self._name))

    async def compute(self, item: Prepared, party: Party) -> Computed[Vector]:
        """Wait for the vector of an item, in the turns of those who wait for it.

        Raises:
            BackendError: the model failed on it, or answered numbers that are not finite.
            UnhealthyError: nothing is computed here any more.
        """
        return await self._batcher.submit(item, party, item.bucket, item.cost)

    async def try_out(self, item: Prepared, sizes: Sequence[int]) -> None:
        """Let every replica compute batches of these sizes before anything that waits.

        Raises:
            BackendError: the model failed on it, or answered numbers that are not finite.
            UnhealthyError: nothing is computed here any more.
        """
        await self._batcher.try_out(item, item.cost, sizes)

    async def aclose(self) -> None:
        """Stop; items that still wait are answered with an error."""
        await self._batcher.aclose()

    def _learn_rate(self, stats: BatchStats) -> None:
        if not stats.failed:
            # Replicas compute side by side: each batch takes the lane a share of its time.
            self.admission.observe(stats.run_s / self._replicas, stats.cost)
            cost_s = self.admission.cost_s * self._replicas
            self.admission.max_pass_cost = self._longest_pass_s / cost_s
            self._batcher.limit_cost(self.admission.max_pass_cost)


def _run(tower: Tower, items: Sequence[Prepared]) -> list[Vector | Exception]:
    rows = tower.network(*tower.preparation.collate(items))
    return [_checked(row, item.pick) for row, item in zip(rows, items, strict=True)]


def _checked(row: Rows, pick: int) -> Vector | Exception:
    """Return the vector of a row: [dim], or [poolings, dim] of which one is its own."""
    vector = row[pick] if row.ndim > 1 else row
    if not np.isfinite(vector).all():
        return BackendError("the model answered numbers that are not finite")
    return vector.copy()  # a copy: a remembered row must not keep its batch in memory

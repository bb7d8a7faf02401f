"""Networks in stages, by OpenVINO: towers share the stages that they have in common.

A text and an image go through the same language network, so a pass of the one would wait for all
of the other's, and an image's takes seconds. Passes take turns at what is shared: those that take
long give way after every stage of it, so that a search waits for one stage at most.

See `backends/stages.py`.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

import numpy as np

from backends.device_errors import translate_device_errors
from backends.model import Arrays, ModelOptions, Precision, Rows
from backends.preprocessing.loaders import Described
from backends.runtimes.openvino.network import OpenVinoNetwork
from backends.stages import Stages, Step

Array: TypeAlias = np.ndarray[Any, Any]

# Of the numbers that a stage takes, as an image has: after such a pass it keeps nothing of what it
# computed in, which for all stages together would be gigabytes; to have it anew costs little.
_LARGE = 1_000_000


class OpenVinoStage(OpenVinoNetwork):
    """A converted stage; each tower that has it asks it by a request of its own."""

    def step(self, inputs: Sequence[str], outputs: Sequence[str]) -> Step[Array]:
        """Return what computes, by the names of its ports; it is for one thread at a time."""
        request = self._request.get_compiled_model().create_infer_request()
        return partial(self._compute, request, inputs, outputs)

    def _compute(
        self,
        request: Any,
        inputs: Sequence[str],
        outputs: Sequence[str],
        known: Mapping[str, Array],
    ) -> dict[str, Array]:
        arrays = [known[name] for name in inputs]
        results = request.infer(arrays, share_inputs=True)
        given = {name: results[place] for place, name in enumerate(outputs)}
        size = sum(array.size for array in arrays)
        self._give_back(size)
        if size > _LARGE:
            request.get_compiled_model().release_memory()
        return given


class Turns:
    """Lets one go on at a time, in the order in which they came."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._waiting: deque[Lock] = deque()
        self._is_taken = False

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Wait for a turn, and have it."""
        mine = Lock()
        mine.acquire()
        with self._lock:
            if self._is_taken:
                self._waiting.append(mine)
            else:
                self._is_taken = True
                mine.release()
        with mine:
            try:
                yield
            finally:
                self._hand_on()

    def _hand_on(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._is_taken = False


class Shelf:
    """The stages of a converted model, each compiled once, by the first tower that wants it.

    Args:
        folder: of the model.
        options: how they are computed; `in_stages`: none is kept.
        networks: how its towers describe theirs.
    """

    def __init__(self, folder: Path, options: ModelOptions, networks: Sequence[Described]) -> None:
        self.options = options
        self.turns = Turns()
        self.folder = folder
        uses = Counter(stage["file"] for one in networks for stage in one.get("stages", ()))
        self._shared = {name for name, towers in uses.items() if towers > 1}
        self._stages: dict[str, OpenVinoStage] = {}
        self._locks: defaultdict[str, Lock] = defaultdict(Lock)

    def is_shared(self, name: str) -> bool:
        """Tell whether several towers have a stage."""
        return name in self._shared

    def stage(self, name: str) -> OpenVinoStage:
        """Return a stage, compiled."""
        if self.options.in_stages:
            return OpenVinoStage(self.folder / name, self.options)
        with self._locks[name]:
            if name not in self._stages:
                self._stages[name] = OpenVinoStage(self.folder / name, self.options)
            return self._stages[name]


class OpenVinoStages:
    """A network in converted stages as a `NetworkInStages`.

    Args:
        shelf: the stages of its model.
        described: its own, in their order, and the names of what is collated.

    Attributes:
        shelf: the same.
    """

    def __init__(self, shelf: Shelf, described: Described) -> None:
        self.shelf = shelf
        self._files = [stage["file"] for stage in described["stages"]]
        self._gives_way: bool = described["gives_way"]
        bring = [partial(self._step_of, **stage) for stage in described["stages"]]
        if not shelf.options.in_stages:
            bring = [partial(_itself, one()) for one in bring]
        self._stages = Stages[Array](described["inputs"], bring)

    @property
    def rows(self) -> int | None:
        """How many ids it has embeddings for; None where it reads none, or keeps no stage."""
        return None if self.shelf.options.in_stages else self.shelf.stage(self._files[0]).rows

    @property
    def dimensions(self) -> int | None:
        """Length of its rows; None where it varies, or no stage is kept."""
        return (
            None if self.shelf.options.in_stages else self.shelf.stage(self._files[-1]).dimensions
        )

    def precision(self) -> Precision:
        """Return what a pass computes its products in, whatever was asked for."""
        if self.shelf.options.in_stages:
            return self.shelf.options.precision or "float32"
        used = {self.shelf.stage(name).precision() for name in self._files}
        return next((precision for precision in used if precision != "float32"), "float32")

    @translate_device_errors
    def __call__(self, *arrays: Array) -> Rows:
        """Compute: arrays of [n, ...] -> rows of float32."""
        return self.passes([arrays])[0]

    def passes(self, batches: Sequence[Arrays]) -> list[Rows]:
        """Compute batches, each stage all of them."""
        with nullcontext() if self._gives_way else self.shelf.turns.taken():
            return self._stages.passes(batches)

    def _step_of(self, file: str, inputs: Sequence[str], outputs: Sequence[str]) -> Step[Array]:
        step = self.shelf.stage(file).step(inputs, outputs)
        takes_turns = self._gives_way and self.shelf.is_shared(file)
        return partial(_in_turn, self.shelf.turns, step) if takes_turns else step


def _itself(step: Step[Array]) -> Step[Array]:
    return step


def _in_turn(turns: Turns, step: Step[Array], known: Mapping[str, Array]) -> Mapping[str, Array]:
    with turns.taken():
        return step(known)

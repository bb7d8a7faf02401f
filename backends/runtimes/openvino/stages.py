"""Networks in stages, computed by OpenVINO; towers share common stages.

Texts and images use the same language network, so a text would wait for the whole pass of an image,
which takes seconds. So passes take turns: a long pass lets waiting passes compute after each
shared stage, and a text waits for one stage at most.

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

# Number of input values of a stage, about that of an image. After a larger pass, the stage frees
# its buffers: for all stages together they would take gigabytes. Allocating them again costs
# little time.
_LARGE = 1_000_000


class OpenVinoStage(OpenVinoNetwork):
    """A converted, compiled stage; each tower has an inference request of its own."""

    def step(self, inputs: Sequence[str], outputs: Sequence[str]) -> Step[Array]:
        """Return a function of named arrays that computes the stage; it is not thread-safe."""
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
    """A fair lock: threads acquire it in the order in which they requested it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._waiting: deque[Lock] = deque()
        self._is_taken = False

    @property
    def waiting(self) -> int:
        """Number of waiting threads."""
        return len(self._waiting)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Acquire the lock, and release it at the end."""
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
                with self._lock:
                    if self._waiting:
                        self._waiting.popleft().release()
                    else:
                        self._is_taken = False


class Shelf:
    """The compiled stages of a converted model, shared by its towers.

    Args:
        folder: the model's folder.
        options: precision and cores; with `in_stages`, no stage is kept in memory.
        networks: the descriptions of the towers' networks.
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
        """Return whether several towers use a stage."""
        return name in self._shared

    def stage(self, name: str) -> OpenVinoStage:
        """Return a compiled stage; it is compiled at the first call, or always if not kept."""
        if self.options.in_stages:
            return OpenVinoStage(self.folder / name, self.options)
        with self._locks[name]:
            if name not in self._stages:
                self._stages[name] = OpenVinoStage(self.folder / name, self.options)
            return self._stages[name]


class OpenVinoStages:
    """A network of converted stages as a `NetworkInStages`.

    Args:
        shelf: the stages of the model.
        described: the network's description: its stages in order, and the names of collated arrays.

    Attributes:
        shelf: the stages of the model.
    """

    def __init__(self, shelf: Shelf, described: Described) -> None:
        self.shelf = shelf
        self._files = [stage["file"] for stage in described["stages"]]
        self._gives_way: bool = described["gives_way"]
        bring = [partial(self._make_step, **stage) for stage in described["stages"]]
        if not shelf.options.in_stages:
            bring = [partial(_itself, one()) for one in bring]
        self._stages = Stages[Array](described["inputs"], bring)

    @property
    def rows(self) -> int | None:
        """Number of token embeddings; None if the network reads no ids, or no stages are kept."""
        return None if self.shelf.options.in_stages else self.shelf.stage(self._files[0]).rows

    @property
    def dimensions(self) -> int | None:
        """Length of the network's rows; None if it varies, or if no stages are kept."""
        return (
            None if self.shelf.options.in_stages else self.shelf.stage(self._files[-1]).dimensions
        )

    def precision(self) -> Precision:
        """Return the precision that a forward pass really uses."""
        if self.shelf.options.in_stages:
            return self.shelf.options.precision or "float32"
        used = {self.shelf.stage(name).precision() for name in self._files}
        return next((precision for precision in used if precision != "float32"), "float32")

    @translate_device_errors
    def __call__(self, *arrays: Array) -> Rows:
        """Compute a batch: arrays [n, ...] -> rows [n, dim] float32."""
        return self.passes([arrays])[0]

    def passes(self, batches: Sequence[Arrays]) -> list[Rows]:
        """Compute all batches stage by stage."""
        with nullcontext() if self._gives_way else self.shelf.turns.taken():
            return self._stages.passes(batches)

    def _make_step(self, file: str, inputs: Sequence[str], outputs: Sequence[str]) -> Step[Array]:
        step = self.shelf.stage(file).step(inputs, outputs)
        takes_turns = self._gives_way and self.shelf.is_shared(file)
        return partial(_in_turn, self.shelf.turns, step) if takes_turns else step


def _itself(step: Step[Array]) -> Step[Array]:
    return step


def _in_turn(turns: Turns, step: Step[Array], known: Mapping[str, Array]) -> Mapping[str, Array]:
    with turns.taken():
        return step(known)

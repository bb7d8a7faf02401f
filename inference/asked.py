"""The inputs of a request once they were read, and their names in what goes wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from backends.model import Embedded, Shaping
from errors import InvalidInputError
from inference.pipeline import Pipeline
from inference.request import Input
from inference.sources import Source


@dataclass(frozen=True, slots=True)
class Asked:
    """An input that was read: what is looked up, and computed where it is not found."""

    input: Input
    pipeline: Pipeline
    source: Source
    shaping: Shaping
    key: bytes

    @property
    def cost(self) -> int:
        """About what computing it costs, in its lane's unit."""
        return self.pipeline.estimate(self.source)


@contextmanager
def named(one: Input) -> Iterator[None]:
    """Name the input at fault, as none of those who compute it knows a request."""
    try:
        yield
    except InvalidInputError as error:
        raise error.at(one.name) from error


def raise_first_error(asked: Sequence[Asked], outcomes: dict[bytes, Embedded | Exception]) -> None:
    """Raise the error of the first input that has one, and forget all outcomes then.

    Raises:
        Exception: whatever it is; one that is the input's own fault names it.
    """
    for one in asked:
        error = outcomes.get(one.key)
        if isinstance(error, Exception):
            # The error will know this frame and its caller's: were it known there, both and all the
            # pictures of the request would wait for the garbage collector.
            outcomes.clear()
            try:
                with named(one.input):
                    raise error
            finally:
                del error

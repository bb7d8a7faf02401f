"""Helpers for asyncio tasks: errors, groups of tasks, and background tasks.

They cover errors that no task can carry, waiting for several tasks, and tasks that no code awaits.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from errors import ServiceError, error_chain

logger = logging.getLogger(__name__)

T = TypeVar("T")


async def all_or_first_error(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return the results of all coroutines; if one fails, cancel the others and raise its error."""
    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # The error refers to this frame, and the frame to its task: a cycle that would keep the
        # request's images in memory until the garbage collector runs. (A TaskGroup has the same
        # cycle.)
        tasks.clear()
        del task
        raise


def background(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Start a background task that no code awaits; a failure is logged at once."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_log_failure)
    return task


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.error("The task %s has ended: %s", task.get_name(), error, exc_info=error)


def as_exception(error: BaseException) -> Exception:
    """Return an error of a job as an exception that futures and tasks can carry.

    They cannot carry `StopIteration`. A `BaseException`, such as a panic in a Rust tokenizer, a
    cancellation or an exit, would end more than its request.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    carried = RuntimeError(f"unexpected {type(error).__name__}: {error}")
    carried.__cause__ = error
    return carried


def detached(error: BaseException) -> Exception:
    """Return an error without tracebacks, whose frames would keep arrays and items in memory.

    For a bug the text of its traceback is kept as a note for the log.
    """
    kept = as_exception(error)
    if not isinstance(kept, ServiceError) and not getattr(kept, "__notes__", None):
        kept.add_note("".join(traceback.format_exception(kept)))
    for link in error_chain(kept):
        link.__traceback__ = None
    return kept

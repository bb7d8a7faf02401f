"""What asyncio's tasks leave to those who use them.

Errors that no task can carry, tasks that belong together, and one that nobody waits for.
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
    """Wait for all; on a failure give the others up and raise it."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # The error knows this frame, and this frame its task: a cycle that would keep the request's
        # images in memory until the collector comes. (A TaskGroup makes one, too.)
        tasks.clear()
        del task
        raise


def background(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """Start what nobody waits for; should it fail, the log says so at once."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_log_failure)
    return task


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.error("The task %s has ended: %s", task.get_name(), error, exc_info=error)


def exception_of(error: BaseException) -> Exception:
    """Return what a job raised as an exception that a future and a task can carry.

    `StopIteration` they cannot, and what is no `Exception`, such as a panic in a tokenizer's Rust,
    a cancellation or an exit, would end more than the request that it is the answer to.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    carried = RuntimeError(f"{type(error).__name__} where nothing of the kind belongs: {error}")
    carried.__cause__ = error
    return carried


def detached(error: BaseException) -> Exception:
    """Return an error that can be kept: without tracebacks, whose frames hold arrays and items.

    Of a bug the text of its traceback stays, as a note for the log.
    """
    kept = exception_of(error)
    if not isinstance(kept, ServiceError) and not getattr(kept, "__notes__", None):
        kept.add_note("".join(traceback.format_exception(kept)))
    for link in error_chain(kept):
        link.__traceback__ = None
    return kept

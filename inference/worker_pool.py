"""A thread pool for jobs of the event loop; every job gets an answer.

The standard library's pool has two faults: a `StopIteration` of a job cannot be put into asyncio's
future, so its caller waits for ever; and at the end of the process all threads are joined, also
hanging threads. Here every job is answered, its time is monitored, and no thread is joined.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, ParamSpec, TypeVar

from errors import UnhealthyError
from inference.health import Monitor
from inference.tasks import as_exception

P = ParamSpec("P")
R = TypeVar("R")

# Seconds that closing waits for running jobs; a hanging job must not keep the process.
_LAST_JOBS_S = 5.0


@dataclass(eq=False, slots=True)
class _Job:
    do: Callable[[], Any]
    answer: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class _Failure:
    error: Exception


class WorkerPool:
    """Runs jobs in threads, in order of arrival.

    Args:
        threads: number of threads.
        name: name of the threads.
        monitor: receives the begin and the end of each job.
    """

    def __init__(self, threads: int, name: str, monitor: Monitor) -> None:
        self._size = threads
        self._name = name
        self._monitor = monitor
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._unanswered: set[asyncio.Future[Any]] = set()
        self._idle = asyncio.Event()
        self._closed = False

    async def run(self, do: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the result of a function that runs in a thread.

        A job that is cancelled before it begins is dropped.

        Raises:
            Exception: raised by `do`, converted by `as_exception`.
            UnhealthyError: the pool is closed.
        """
        # No local variable may refer to the future: its error would refer to this frame, and the
        # frame to the error, a cycle that waits for the garbage collector.
        return await self._submit(partial(do, *args, **kwargs))

    def _submit(self, do: Callable[[], R]) -> asyncio.Future[R]:
        if self._closed:
            raise UnhealthyError(f"{self._name}: closed")
        for number in range(len(self._threads), self._size):
            thread = Thread(target=self._work, name=f"{self._name}-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._unanswered.add(answer)
        answer.add_done_callback(self._unanswered.discard)
        self._jobs.put(_Job(do, answer))
        return answer

    def _work(self) -> None:
        while job := self._jobs.get():
            if not job.answer.done():  # else it was cancelled, or the pool closed
                self._monitor.job_began(job)
                try:
                    outcome = job.do()
                except BaseException as error:  # noqa: BLE001 - any error is the answer
                    outcome = _Failure(as_exception(error))
                with suppress(RuntimeError):  # the event loop is closed
                    job.answer.get_loop().call_soon_threadsafe(self._answer, job, outcome)
                del outcome
            del job  # else this frame would keep its images until the next job

    def _answer(self, job: _Job, outcome: Any) -> None:
        self._monitor.job_ended(job)
        if self._closed and self._monitor.is_idle:
            self._idle.set()
        if job.answer.done():
            return
        if isinstance(outcome, _Failure):
            job.answer.set_exception(outcome.error)
        else:
            job.answer.set_result(outcome)

    async def aclose(self) -> None:
        """Reject new and waiting jobs; running jobs have a few seconds to end."""
        self._closed = True
        for answer in [answer for answer in self._unanswered if not answer.done()]:
            answer.set_exception(UnhealthyError(f"{self._name}: closed"))
        for _ in self._threads:
            self._jobs.put(None)
        if not self._monitor.is_idle:
            self._idle.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_JOBS_S):
                    await self._idle.wait()

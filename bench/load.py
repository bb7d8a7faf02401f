"""Load generator: a closed loop of clients, or an open loop at a rate.

Every load has a burn-in, which does not count, and a timed window. It does not know the content of
requests.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bench.client import Connection, Target
from bench.wire import NextRequest, Request

_PAUSE_AFTER_ERROR_S = 0.05  # so that clients do not loop without a pause if every request fails


@dataclass(frozen=True)
class Timing:
    """The duration of a load.

    Attributes:
        seconds: duration of the timed window.
        burn_in_s: minimum duration of the burn-in, which also lasts until every client had an
            answer.
    """

    seconds: float = 3.0
    burn_in_s: float = 1.0


@dataclass(frozen=True)
class Group:
    """Clients with the same kind of request.

    Attributes:
        next_request: function that makes the next request.
        clients: number of clients; each waits for its answer before its next request.
        pause_s: pause of a client after an answer.
    """

    next_request: NextRequest
    clients: int
    pause_s: float = 0.0


class Sample(NamedTuple):
    """A request: its begin, its end, and its error if it failed."""

    started_s: float
    ended_s: float
    error: str | None = None


class Window(NamedTuple):
    """The timed window of a load.

    Attributes:
        client_cpu: cores that this process used in the window.
    """

    begin_s: float
    end_s: float
    client_cpu: float


@dataclass(frozen=True)
class Measurement:
    """The measurement of a group of clients in the timed window.

    Attributes:
        rate_per_s: answers a second without errors.
        latencies_ms: latencies of requests that began in the window and had no error.
        errors: number of failed requests by reason, also outside of the window.
        client_cpu: as in Window.
    """

    rate_per_s: float
    latencies_ms: tuple[float, ...]
    errors: dict[str, int]
    client_cpu: float

    @classmethod
    def of(cls, samples: Sequence[Sample], window: Window) -> Measurement:
        """Compute the measurement of a group's requests."""
        good = [s for s in samples if s.error is None and _share_in(s, window) > 0]
        return cls(
            rate_per_s=sum(_share_in(s, window) for s in good) / (window.end_s - window.begin_s),
            latencies_ms=tuple(
                1e3 * (s.ended_s - s.started_s) for s in good if s.started_s >= window.begin_s
            ),
            errors=dict(Counter(sample.error for sample in samples if sample.error)),
            client_cpu=window.client_cpu,
        )


def _share_in(sample: Sample, window: Window) -> float:
    """Return the share of a request's time that is in the window.

    Answers come in bursts, a batch at a time, so the number of answers in a short window depends on
    its begin. A sum of shares does not.
    """
    inside = min(sample.ended_s, window.end_s) - max(sample.started_s, window.begin_s)
    return max(0.0, inside) / (sample.ended_s - sample.started_s)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return a percentile of values; NaN if there are none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


async def closed_loop(target: Target, groups: Sequence[Group], timing: Timing) -> list[Measurement]:
    """Run all groups at once; return a measurement for each."""
    stop = asyncio.Event()
    clients = [[_Client(target, group) for _ in range(group.clients)] for group in groups]
    everyone = [client for group in clients for client in group]
    async with asyncio.TaskGroup() as tasks:
        for client in everyone:
            tasks.create_task(client.run(stop))
        await asyncio.sleep(timing.burn_in_s)
        await asyncio.gather(*(client.has_answer.wait() for client in everyone))
        window = await _time(timing.seconds)
        stop.set()
    return [Measurement.of([s for c in group for s in c.samples], window) for group in clients]


async def open_loop(
    target: Target, next_request: NextRequest, rate_per_s: float, timing: Timing, seed: int
) -> Measurement:
    """Send requests at their due times, also if earlier ones are not answered yet.

    A latency counts from the due time, so that a stalled service cannot hide its queue.
    """
    idle: list[Connection] = []
    samples: list[Sample] = []

    async def send(due_s: float) -> None:
        connection = idle.pop() if idle else Connection(target)
        # The event loop's timers have milliseconds, so a timer may fire a little early.
        started_s = min(due_s, time.perf_counter())
        samples.append(await _ask(connection, next_request(), started_s))
        idle.append(connection)

    begin_s = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        timed = tasks.create_task(_time_after(timing))
        for due_s in arrivals(rate_per_s, timing.burn_in_s + timing.seconds, seed):
            await asyncio.sleep(begin_s + due_s - time.perf_counter())
            tasks.create_task(send(begin_s + due_s))
    for connection in idle:
        connection.close()
    return Measurement.of(samples, timed.result())


def arrivals(rate_per_s: float, seconds: float, seed: int) -> Iterator[float]:
    """Yield the times of a Poisson process, as of many independent clients."""
    rng = random.Random(seed)
    due_s = rng.expovariate(rate_per_s)
    while due_s < seconds:
        yield due_s
        due_s += rng.expovariate(rate_per_s)


class _Client:
    def __init__(self, target: Target, group: Group) -> None:
        self.samples: list[Sample] = []
        self.has_answer = asyncio.Event()
        self._group = group
        self._connection = Connection(target)

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            sample = await _ask(self._connection, self._group.next_request(), time.perf_counter())
            self.samples.append(sample)
            self.has_answer.set()
            if pause_s := _PAUSE_AFTER_ERROR_S if sample.error else self._group.pause_s:
                await asyncio.sleep(pause_s)
        self._connection.close()


async def _ask(connection: Connection, request: Request, started_s: float) -> Sample:
    try:
        answer = await connection.ask(request)
        error = None if answer.status < 300 else f"HTTP {answer.status}"
    except (OSError, ValueError) as failure:
        error = type(failure).__name__
    return Sample(started_s, time.perf_counter(), error)


async def _time(seconds: float) -> Window:
    begin_s, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.sleep(seconds)
    end_s = time.perf_counter()
    return Window(begin_s, end_s, (time.process_time() - cpu_s) / (end_s - begin_s))


async def _time_after(timing: Timing) -> Window:
    await asyncio.sleep(timing.burn_in_s)
    return await _time(timing.seconds)

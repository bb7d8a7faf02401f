"""The arbiter of a device: orders the batches of all models that share it.

    chunks wait -> share.ask -> the device's order -> batch -> forward pass -> turn.end

A batch asks for its turn before it is formed: chunks that arrive meanwhile join it, and a query
that arrives makes the turn urgent. Only tasks of the event loop wait, and no threads, so nothing
here needs a lock. A model that has the device for itself asks for no turns.

The order is start-time fair queueing (Goyal, Vin and Cheng, 1996) in seconds of the device: the
model that has used it least is next, and a query has a head start. While batches of several models
run side by side, each counts for its part of the time.

The arbiter orders, and does not lock. Each batch starts after a bounded wait beside batches that
still run, so that long passes, wrong estimates and passes that never end delay other models by a
bounded time only. This module knows no model.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Protocol

# Imports into this many models compute side by side: one pass at a time would leave the device idle
# while its rows are handed to the event loop, and the next batch to its thread.
_SIDE_BY_SIDE = 2
# While several models are busy, batches are cut to this time. A longer pass, such as that of one
# large image or one that hangs, keeps other models waiting for no longer. Queries go before other
# batches as long as their model has used the device for this much more: else a crowd of queries
# would starve the imports of other models until these time out.
LONGEST_BATCH_S = 0.25
# A query waits for a batch that is expected to end within this time, and no longer than that. It
# starts beside any other batch.
QUERY_WAIT_S = 0.05
# A batch without queries waits at most this many times its own duration. So a short batch, such as
# the text of a search that is not marked as a query, hardly waits for long batches.
_PATIENCE = 2.0
_LEAST_PATIENCE_S = 0.02
# A model is busy until this many seconds after its last batch.
_BUSY_S = 2.0
# A pass that has run for longer may hang, and counts as using the device no more.
_HANGS_S = 10.0


class Backlog(Protocol):
    """The queued work of one modality of a model."""

    def queued_s(self, *, queries_only: bool) -> float:
        """Return the estimated seconds of unfinished work, or of queries alone."""
        ...


class DeviceTurn:
    """The turn of one batch, from the request for it to the end of the batch.

    Args:
        share: the share of the batch's model.
        latest_s: timestamp at which the turn begins at the latest.
        is_query: whether the batch holds queries.

    Attributes:
        granted: a future that ends when the turn begins.
        began_s: timestamp of the begin.
        used_s: seconds for which the batch has used the device.
    """

    __slots__ = ("_run_s", "began_s", "granted", "is_query", "latest_s", "share", "used_s")

    def __init__(self, share: DeviceShare, latest_s: float, *, is_query: bool) -> None:
        self.share = share
        self.latest_s = latest_s
        self.is_query = is_query
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.began_s = self.used_s = self._run_s = 0.0

    @property
    def to_go_s(self) -> float:
        """Seconds of the device that the batch is expected to take yet."""
        return self._run_s - self.used_s

    def due_s(self) -> float:
        """Return the place in the order: seconds that the model used the device; least is next."""
        return self.share.used_s - (LONGEST_BATCH_S if self.is_query else 0.0)

    def expect(self, run_s: float) -> None:
        """Set the expected duration of the batch, once it is formed."""
        self._run_s = run_s

    def used_until_now_s(self) -> float:
        """Return the seconds for which the batch has used the device."""
        self.share.device.count()
        return self.used_s

    def hurry(self) -> None:
        """Give a waiting turn the priority of a query."""
        if not self.is_query:
            self.is_query = True
            self.latest_s = min(self.latest_s, self.share.device.clock() + QUERY_WAIT_S)
            self.share.device.dispatch()

    def end(self) -> None:
        """End the turn, in any state; a second end does nothing."""
        self.share.device.end(self)


class DeviceShare:
    """A model's share of a device.

    Args:
        device: the device.

    Attributes:
        device: the device.
        backlogs: the queued work of the model, for the estimates of other models.
        used_s: seconds for which the model has used the device, for the order.
        ended_s: timestamp of the end of its last turn.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.backlogs: list[Backlog] = []
        self.used_s = 0.0
        self.ended_s = -math.inf

    def ask(self, run_s: float, *, is_query: bool) -> DeviceTurn:
        """Ask for the turn of a batch, and return it; it begins when its future ends.

        Args:
            run_s: the estimated duration of the batch in seconds; 0 if it is unknown.
            is_query: whether the batch holds queries.
        """
        patience_s = max(_LEAST_PATIENCE_S, min(_PATIENCE * run_s, LONGEST_BATCH_S))
        latest_s = self.device.clock() + (QUERY_WAIT_S if is_query else patience_s)
        turn = DeviceTurn(self, latest_s, is_query=is_query)
        self.device.ask(turn)
        return turn

    @property
    def max_batch_s(self) -> float:
        """Maximum duration of a batch in seconds; infinity if no other model is busy."""
        since_s = self.device.clock() - _BUSY_S
        others = (share for share in self.device.shares if share is not self)
        is_busy = any(other.ended_s > since_s or self.device.is_using(other) for other in others)
        return LONGEST_BATCH_S if is_busy else math.inf

    def wait_s(self, own_s: float, *, is_query: bool) -> float:
        """Return how long some work takes beside the queued work of the other models.

        The models have equal shares. So another model takes at most as long as this one, but for
        its queries: they go before all work that is not of queries.

        Args:
            own_s: seconds of the device that the work takes by itself.
            is_query: whether it is work of queries, which waits for queries only.
        """
        wait_s = own_s
        for other in self.device.shares:
            if other is self:
                continue
            queries_s = sum(backlog.queued_s(queries_only=True) for backlog in other.backlogs)
            all_s = sum(backlog.queued_s(queries_only=False) for backlog in other.backlogs)
            wait_s += min(own_s, queries_s) if is_query else max(queries_s, min(own_s, all_s))
        return wait_s

    def leave(self) -> None:
        """Remove the model from the device."""
        self.device.leave(self)


class Device:
    """Orders the batches of the models that share a device; all on one event loop.

    Args:
        clock: function that returns the time in seconds.

    Attributes:
        shares: the shares of the models.
        is_shared: whether there are several models; the batches of a single one need no turns.
        clock: function that returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.shares: list[DeviceShare] = []
        self.is_shared = False
        self.clock = clock
        self._waiting: list[DeviceTurn] = []
        self._running: list[DeviceTurn] = []
        self._served_s = 0.0  # the latest `used_s` at the begin of a turn
        self._counted_s = 0.0  # timestamp up to which `used_s` is counted
        self._timer: asyncio.TimerHandle | None = None

    def share(self) -> DeviceShare:
        """Add a model, and return its share."""
        share = DeviceShare(self)
        self.shares.append(share)
        self.is_shared = len(self.shares) > 1
        return share

    def leave(self, share: DeviceShare) -> None:
        """Remove a model."""
        self.shares.remove(share)
        self.is_shared = len(self.shares) > 1

    def ask(self, turn: DeviceTurn) -> None:
        """Let a turn wait for its begin."""
        # A model gains no priority by being idle.
        turn.share.used_s = max(turn.share.used_s, self._served_s)
        self._waiting.append(turn)
        self.dispatch()

    def end(self, turn: DeviceTurn) -> None:
        """End a turn, in any state, so that other turns may begin.

        They begin after the caller has had the chance to ask for its own next turn. Otherwise the
        models would alternate batch by batch, however long their batches take.
        """
        self.count()
        if turn in self._running:
            self._running.remove(turn)
            turn.share.ended_s = self.clock()
        elif turn in self._waiting:
            self._waiting.remove(turn)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self.dispatch)

    def is_using(self, share: DeviceShare) -> bool:
        """Return whether a model has a turn, or waits for one."""
        return any(turn.share is share for turn in (*self._running, *self._waiting))

    def dispatch(self) -> None:
        """Begin the turns that may begin now, in order; a timer begins the others later."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self.count()
        now_s = self.clock()
        next_s = math.inf
        for turn in sorted(self._waiting, key=DeviceTurn.due_s):
            begins_s = turn.latest_s
            if next_s == math.inf:  # else an earlier turn waits, which this turn must not delay
                begins_s = min(begins_s, self._clear_s(turn, now_s))
            if begins_s <= now_s:
                self._begin(turn, now_s)
            else:
                next_s = min(next_s, begins_s)
        if self._waiting:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(next_s - now_s, self.dispatch)

    def _clear_s(self, turn: DeviceTurn, now_s: float) -> float:
        """Return the latest time until which batches of other models can delay a turn."""
        models = len({other.share for other in self._running})
        others = [
            other
            for other in self._running
            if other.share is not turn.share and other.began_s + LONGEST_BATCH_S > now_s
        ]
        if turn.is_query:
            in_the_way = [one for one in others if one.to_go_s * models <= QUERY_WAIT_S]
        elif len({other.share for other in others}) < _SIDE_BY_SIDE:
            in_the_way = [one for one in others if one.is_query]
        else:
            in_the_way = others
        return max((one.began_s + LONGEST_BATCH_S for one in in_the_way), default=now_s)

    def _begin(self, turn: DeviceTurn, now_s: float) -> None:
        self._waiting.remove(turn)
        self._running.append(turn)
        self._served_s = max(self._served_s, turn.share.used_s)
        turn.began_s = now_s
        if not turn.granted.done():  # else its task is cancelled, and is about to end it
            turn.granted.set_result(None)

    def count(self) -> None:
        """Add the time since the last call to the turns and their models, in equal parts."""
        now_s = self.clock()
        turns = [turn for turn in self._running if turn.began_s + _HANGS_S > now_s]
        models = {turn.share for turn in turns}
        part_s = (now_s - self._counted_s) / max(1, len(models))
        for turn in turns:
            turn.used_s += part_s
        for share in models:
            share.used_s += part_s
        self._counted_s = now_s


class Devices:
    """The devices of a process by name, such as `cpu` or `cuda:0`."""

    def __init__(self) -> None:
        self._devices: dict[str, Device] = {}

    def share(self, name: str) -> DeviceShare:
        """Add a model to a device, and return its share."""
        return self._devices.setdefault(name, Device()).share()

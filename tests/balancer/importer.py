"""Clients that send what Weaviate sends during an import, and check every vector."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from io import BytesIO

from PIL import Image

from bench.client import Connection, Target
from tests.crowd import Item, Known, request_of

SENDERS = 16
WEAVIATE_S = 50  # Weaviate's MODULES_CLIENT_TIMEOUT


def objects(count: int) -> list[Item]:
    """Distinct ones: texts and small images in turn."""
    rng = random.Random(0)
    return [
        Item("images", _image(rng)) if number % 2 else Item("texts", f"object number {number}")
        for number in range(count)
    ]


def _image(rng: random.Random) -> str:
    raw = BytesIO()
    Image.frombytes("RGB", (8, 8), rng.randbytes(192)).resize((64, 64)).save(raw, "PNG")
    return base64.b64encode(raw.getvalue()).decode()


@dataclass
class Imported:
    """What became of the objects.

    Attributes:
        answered: those that got their own vector.
        lost: the others, by what Weaviate would have shown; it asks for none of them again.
        resent: requests whose kept connection died, which Go's client sends again.
        slowest_s: the longest that an answer took.
    """

    answered: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    resent: int = 0
    slowest_s: float = 0

    def __add__(self, other: Imported) -> Imported:
        return Imported(
            self.answered + other.answered,
            self.lost + other.lost,
            self.resent + other.resent,
            max(self.slowest_s, other.slowest_s),
        )


@dataclass
class Importer:
    """One of Weaviate's senders: a kept connection, one object a request."""

    target: Target
    known: Known
    items: Sequence[Item]
    rest_s: float = 0  # after each object
    imported: Imported = field(default_factory=Imported)
    _kept: bool = False

    async def run(self, stop: asyncio.Event) -> None:
        """Import the items, again and again, until told to stop."""
        with closing(Connection(self.target)) as connection:
            for item in itertools.cycle(self.items):
                if stop.is_set():
                    break
                await self._import(item, connection)
                if self.rest_s:
                    await asyncio.sleep(self.rest_s)

    async def _import(self, item: Item, connection: Connection) -> None:
        started_s = time.perf_counter()
        try:
            async with asyncio.timeout(WEAVIATE_S):
                status, body = await self._ask(item, connection)
        except (OSError, TimeoutError) as error:
            self.imported.lost[type(error).__name__] += 1
            connection.close()
            await asyncio.sleep(0.05)  # nobody listens: this client must not spin
            return
        self.imported.slowest_s = max(self.imported.slowest_s, time.perf_counter() - started_s)
        if status == 200:
            self.known.check([item], body)
            self.imported.answered += 1
        else:
            self.imported.lost[f"{status} {json.loads(body)['error']}"] += 1

    async def _ask(self, item: Item, connection: Connection) -> tuple[int, bytes]:
        """As Go's client: where a kept connection has died, the request goes to a new one."""
        kept, self._kept = self._kept, False
        try:
            answer = await connection.ask(request_of([item]))
        except ConnectionError:
            if not kept:
                raise
            self.imported.resent += 1
            answer = await connection.ask(request_of([item]))
        self._kept = True
        return answer


@dataclass
class Import:
    """An import that goes on while something happens to the replicas."""

    importers: Sequence[Importer]

    @classmethod
    def of(cls, target: Target, known: Known) -> Import:
        """Share the known items out among Weaviate's senders: no two send the same."""
        shares = (known.items[sender::SENDERS] for sender in range(SENDERS))
        return cls([Importer(target, known, share) for share in shares])

    @contextmanager
    def slowly(self) -> Iterator[None]:
        """Leave the processor to processes that start meanwhile: a sender then rests at times."""
        for importer in self.importers:
            importer.rest_s = 0.15
        try:
            yield
        finally:
            for importer in self.importers:
                importer.rest_s = 0

    def so_far(self) -> Imported:
        return sum((importer.imported for importer in self.importers), Imported())

    def during(self, story: Callable[[], object]) -> Imported:
        """Go on until the story, which runs in a thread, has been told; return what came of it."""
        asyncio.run(self._during(story))
        return self.so_far()

    async def _during(self, story: Callable[[], object]) -> None:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as senders:
            for importer in self.importers:
                senders.create_task(importer.run(stop))
            try:
                await asyncio.to_thread(story)
            finally:
                stop.set()

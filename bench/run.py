"""The order of a run: loads on the service, and loops of the bare model around them.

Machines drift, so each round measures the bare model before and after the service, and the rounds
are short. While one process is measured the others are idle.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import uvloop

from bench import inputs, machine
from bench.bare import ONE_AT_A_TIME, BareModel, Loop, Modality, bare_model
from bench.client import Connection, Target
from bench.figures import Figures
from bench.load import Group, Measurement, closed_loop, open_loop
from bench.plan import (
    BULK_CLIENTS,
    BULK_TEXTS,
    CROWD,
    LONG_CLIENTS,
    OPEN_LOOP_SHARE,
    READY_EVERY_S,
    SEARCH_EVERY_S,
    TEXT_CROWD,
    TUNING_S,
    Plan,
)
from bench.service import MemoryWatch, running
from bench.wire import Api, NextRequest, Request

_PARSE_ONLY = (sys.executable, "-m", "bench.parse_only")


def run_here(folder: Path, api: Api, plan: Plan) -> Figures:
    """Measure this tree's service and the bare model on a model folder."""
    figures = Figures()
    settings = {"MODELS_DIR": str(folder)}
    _log("a first start, which converts the model if needed")
    with running("service", settings=settings):
        pass
    for _ in range(plan.starts - 1):
        _time_imports(figures)
        with running("service", settings=settings) as service:
            figures.start_s.append(service.start_s)
    _time_imports(figures)
    with (
        running("service", settings=settings) as service,
        running("parse_only", _PARSE_ONLY) as parse_only,
        bare_model(folder) as bare,
        bare_model(folder, ONE_AT_A_TIME) as one_at_a_time,
        _runner() as runner,
    ):
        figures.start_s.append(service.start_s)
        beside = Beside(bare, one_at_a_time, plan, figures)
        run = _choose_run(plan)(service.target, api, plan, figures, runner, beside)
        watch = MemoryWatch(service.pid)
        run.rounds(parse_only.target)
        figures.memory = watch.close()
        watch = MemoryWatch(service.pid)
        run.larger_images()
        figures.memory_with_larger = watch.close() if plan.sizes else None
    return figures


def run_there(target: Target, api: Api, plan: Plan) -> Figures:
    """Measure a running service, without the bare model."""
    figures = Figures()
    with _runner() as runner:
        run = _choose_run(plan)(target, api, plan, figures, runner, beside=None)
        run.rounds(parse_only=None)
        run.larger_images()
    return figures


class Beside:
    """The bare model's loops, measured before and after the service's loads."""

    def __init__(
        self, bare: BareModel, one_at_a_time: BareModel, plan: Plan, figures: Figures
    ) -> None:
        self._bare = bare
        self._one_at_a_time = one_at_a_time
        self._figures = figures
        self._seconds, self._batches = plan.seconds, plan.batches
        self._is_text_only = plan.is_text_only
        self._best: dict[Modality, Loop] = {}

    @contextmanager
    def around(self, modality: Modality) -> Iterator[None]:
        """Run the bare loop before and after, and "one at a time" before."""
        best = self._tuned(modality)
        _log(f"bare model, {modality}")
        before = self._bare.run(best)
        one = self._one_at_a_time.run(replace(best, batch=1, threads=1, is_apart=True))
        yield
        after = self._bare.run(best)
        self._figures.add_loop(f"bare/{modality}", before, after)
        self._figures.add_loop(f"one/{modality}", one)
        if self._is_text_only:  # images and CLIP's texts are compared with "one at a time"
            lone = self._bare.run(replace(best, batch=1))
            self._figures.add_loop(f"lone/{modality}", lone)

    def at_size(self, size: tuple[int, int]) -> None:
        """Run the loops on images of another size."""
        bare = replace(self._tuned("images"), size=size)
        one = replace(bare, batch=1, threads=1)
        self._figures.add_loop(f"bare/{_size_name(size)}", self._bare.run(bare))
        self._figures.add_loop(f"one/{_size_name(size)}", self._one_at_a_time.run(one))

    def _tuned(self, modality: Modality) -> Loop:
        if modality not in self._best:
            _log(f"bare model, {modality}: looking for the best batch size")
            best = self._bare.best(Loop(modality, batch=1, seconds=TUNING_S), self._batches)
            self._best[modality] = replace(best, seconds=self._seconds)
            about = {"batch": best.batch, "decode_threads": best.threads}
            self._figures.settings[f"bare/{modality}"] = about
        return self._best[modality]


class Run:
    """Runs a plan on a service of texts and images."""

    def __init__(
        self,
        target: Target,
        api: Api,
        plan: Plan,
        figures: Figures,
        runner: asyncio.Runner,
        beside: Beside | None,
    ) -> None:
        self._target = target
        self._api = api
        self._plan = plan
        self._figures = figures
        self._runner = runner
        self._beside = beside
        # A container may still have the inputs of an earlier run in its cache.
        self._numbers = itertools.count(int(time.time()) % 100_000 * 1_000_000)

    def rounds(self, parse_only: Target | None) -> None:
        """Measure all loads of every round."""
        self._check()
        for number in range(1, self._plan.rounds + 1):
            _log(f"round {number} of {self._plan.rounds}")
            self._round(number, parse_only)

    def _round(self, number: int, parse_only: Target | None) -> None:
        self._counts("images", self._image)
        self._counts("texts", self._text)
        self._mix()
        self._turns()
        _log("the same image again")
        self._again(self._image(), parse_only)
        self._open_loop(seed=number)

    def larger_images(self) -> None:
        """Measure larger images."""
        for size in self._plan.sizes:
            name = _size_name(size)
            _log(name)
            if self._beside:
                self._beside.at_size(size)
            self._closed({f"{name}/{CROWD}": Group(partial(self._image, size), CROWD)})

    def _counts(self, modality: Modality, next_request: NextRequest) -> None:
        with self._beside.around(modality) if self._beside else _nothing():
            for clients in self._plan.clients:
                _log(f"{modality}, {clients} clients")
                self._closed({f"{modality}/{clients}": Group(next_request, clients)})

    def _mix(self) -> None:
        _log("searches during an import")
        groups = {
            "mix/import": Group(self._image, CROWD),
            "mix/search": Group(self._text, 1),
            "mix/ready": Group(self._api.ready_request, 1, READY_EVERY_S),
        }
        self._closed(groups)

    def _turns(self) -> None:
        _log("short texts beside long ones")
        long = Group(partial(self._text, inputs.long_text), LONG_CLIENTS)
        self._closed({"turns/short beside long": Group(self._text, CROWD), "turns/long": long})
        for name, words in (("short", inputs.text), ("long", inputs.long_text)):
            _log(f"a search behind {BULK_CLIENTS} requests of {BULK_TEXTS} {name} texts")
            bulk = Group(partial(self._text, words, BULK_TEXTS), BULK_CLIENTS)
            self._closed({f"bulk/{name}": bulk, f"bulk/search, {name}": Group(self._text, 1)})

    def _again(self, same: Request, parse_only: Target | None = None) -> None:
        group = Group(lambda: same, CROWD)
        self._closed({"repeats": group})
        if parse_only:
            self._closed({"parse only": group}, parse_only)

    def _open_loop(self, seed: int) -> None:
        rate_per_s = self._plan.rate_per_s or self._comfortable_rate()
        self._figures.settings["open loop, images/s"] = rate_per_s
        _log(f"open loop, {rate_per_s:.1f} images/s")
        load = open_loop(self._target, self._image, rate_per_s, self._plan.timing, seed)
        self._figures.add_load("open", self._runner.run(load))

    def _comfortable_rate(self) -> float:
        fastest = max(self._figures.loads[f"images/{c}"][0].rate_per_s for c in self._plan.clients)
        return max(1.0, OPEN_LOOP_SHARE * fastest)

    def _closed(self, groups: dict[str, Group], target: Target | None = None) -> None:
        load = closed_loop(target or self._target, list(groups.values()), self._plan.timing)
        measurements: Sequence[Measurement] = self._runner.run(load)
        for name, measurement in zip(groups, measurements, strict=True):
            self._figures.add_load(name, measurement)

    def _image(self, size: tuple[int, int] = inputs.SMALL) -> Request:
        return self._api.image_request(size, next(self._numbers))

    def _text(self, words: Callable[[int], str] = inputs.text, count: int = 1) -> Request:
        return self._api.text_request(*(words(next(self._numbers)) for _ in range(count)))

    def _check(self) -> None:
        """Check that the service answers an image and a text with a vector each."""
        for kind, request in self._examples():
            answer = self._runner.run(_ask_once(self._target, request))
            if not answer or len(self._api.vectors(answer)) != 1:
                raise RuntimeError(f"the service did not answer {kind} with one vector: {answer}")

    def _examples(self) -> Iterator[tuple[str, Request]]:
        yield "an image", self._image()
        yield "a text", self._text()


class TextRun(Run):
    """Runs a plan on a service of texts, one text a request."""

    def _round(self, number: int, parse_only: Target | None) -> None:
        self._counts("texts", self._text)
        self._counts("passages", self._passage)
        self._mix()
        _log("the same text again")
        self._again(self._text())

    def larger_images(self) -> None:
        """Do nothing: there are no images."""

    def _mix(self) -> None:
        _log("searches, alone and during an import")
        # With a random pause, as else each search would begin right after a pass.
        search = Group(self._search, 1, SEARCH_EVERY_S)
        self._closed({"search/1": search})
        self._closed({"mix/import": Group(self._text, TEXT_CROWD), "mix/search": search})

    def _passage(self) -> Request:
        return self._text(inputs.passage)

    def _search(self) -> Request:
        return self._api.search_request(inputs.text(next(self._numbers)))

    def _examples(self) -> Iterator[tuple[str, Request]]:
        yield "a text", self._text()


def _choose_run(plan: Plan) -> type[Run]:
    return TextRun if plan.is_text_only else Run


async def _ask_once(target: Target, request: Request) -> object:
    connection = Connection(target)
    answer = await connection.ask(request)
    connection.close()
    if answer.status >= 300:
        raise RuntimeError(f"the service answered {answer.status}: {answer.body[:300]!r}")
    return json.loads(answer.body)


def _time_imports(figures: Figures) -> None:
    _log("start")
    if not figures.import_s:
        machine.import_seconds()  # fills the page cache
    figures.import_s.append(machine.import_seconds())


def _runner() -> asyncio.Runner:
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _size_name(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _log(message: str) -> None:
    print(f"  {message}", file=sys.stderr, flush=True)

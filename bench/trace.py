"""Counts the calls of this project's functions that answer one request: `python -m bench.trace`.

The service runs in this process under `sys.setprofile`, and a thread asks it. Counted is each call
of a Python function in the product's files, in every thread, from the request's bytes to the last
byte of its answer. Three things are left out: the connection's own class (`web/protocol.py`), which
stands for the server; comprehensions, which Python 3.11 runs as functions; and a coroutine that
goes on after a wait, which was counted when it began.
"""

from __future__ import annotations

import argparse
import dis
import http.client
import inspect
import itertools
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple, TypeAlias

import app
from bench import inputs, tiny, wire
from bench.client import Target
from bench.report import table
from bench.service import ROOT, free_port, is_ready
from bench.wire import Request

PRODUCT = ("web", "inference", "backends", "fetch")  # and the modules at the root
_SERVER = ROOT / "web" / "protocol.py"
_COMPREHENSIONS = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}
_CAN_WAIT = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_WARM_UP, _TRACED = 5, 5  # requests of each kind
_PAUSE_S = 0.05
_ANSWER_LIMIT_S = 60


class Function(NamedTuple):
    """A function; Python takes code objects of different files for equal."""

    file: str
    line: int
    name: str


Calls: TypeAlias = Sequence[Function]


@dataclass
class Tracer:
    """A profile function that writes down the calls of the product's functions, in their order.

    Attributes:
        calls: from the last `recording` on, to the end of the answer.
        after: those that followed the answer.
    """

    calls: list[Function] = field(default_factory=list)
    after: list[Function] = field(default_factory=list)
    _into: list[Function] | None = None

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        """Take down one event of any thread."""
        if self._into is None:
            return
        code = frame.f_code
        if event == "call" and is_counted(code.co_filename, code.co_name) and _begins(frame):
            self._into.append(Function(code.co_filename, code.co_firstlineno, code.co_qualname))
        elif event == "return" and _ends_answer(frame):
            self._into = self.after

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Take down the calls of one request."""
        self.calls, self.after = [], []
        self._into = self.calls
        try:
            yield
        finally:
            self._into = None


class Way(NamedTuple):
    """The way of one request through the product.

    Attributes:
        calls: of functions.
        functions: different ones among them, lambdas left out.
        files: that these are in.
        changes: how often a call is in another file than the call before it.
        after: calls that follow the answer, such as those that count it.
    """

    calls: int
    functions: int
    files: int
    changes: int
    after: int

    @classmethod
    def of(cls, calls: Calls, after: Calls = ()) -> Way:
        """Measure a way."""
        files = [function.file for function in calls]
        return cls(
            calls=len(calls),
            functions=len({one for one in calls if not one.name.endswith("<lambda>")}),
            files=len(set(files)),
            changes=sum(one != another for one, another in itertools.pairwise(files)),
            after=len(after),
        )


@cache
def is_counted(file: str, name: str) -> bool:
    """Tell whether a function is one of the product, and no comprehension."""
    path = Path(file)
    if path == _SERVER or name in _COMPREHENSIONS or not path.is_relative_to(ROOT):
        return False
    room, *rest = path.relative_to(ROOT).parts
    return not rest or room in PRODUCT


def _begins(frame: FrameType) -> bool:
    return frame.f_lasti <= _first_instruction(frame.f_code)


@cache
def _first_instruction(code: CodeType) -> int:
    """Return where a function begins: a coroutine is made before, and goes on behind it."""
    if not code.co_flags & (
        inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
    ):
        return len(code.co_code)
    return next(one.offset for one in dis.get_instructions(code) if one.opname == "RESUME")


def _ends_answer(frame: FrameType) -> bool:
    """Tell whether uvicorn has just taken the last byte of an answer."""
    if frame.f_code.co_name != "send" or "uvicorn" not in frame.f_code.co_filename:
        return False
    return bool(getattr(frame.f_locals.get("self"), "response_complete", False))


def requests() -> Mapping[str, Sequence[Request]]:
    """Return requests of each kind that is traced; the last ones of a kind are what is traced."""
    count = _WARM_UP + _TRACED
    clip, texts = wire.reference(), wire.text_reference()
    return {
        "a text, computed": [clip.text_request(inputs.text(n)) for n in range(count)],
        "a text, remembered": [clip.text_request(inputs.text(0))] * count,
        "ten sentences": [texts.text_request(inputs.passage(n)) for n in range(count)],
    }


def trace(tracer: Tracer, target: Target) -> dict[str, tuple[Calls, Calls]]:
    """Ask a service of this process; for each kind, the median request's calls and those after."""
    while not is_ready(target):
        time.sleep(_PAUSE_S)
    connection = http.client.HTTPConnection(target.host, target.port, timeout=_ANSWER_LIMIT_S)
    found: dict[str, tuple[Calls, Calls]] = {}
    for kind, asked in requests().items():
        ways = []
        for request in asked:
            with tracer.recording():
                connection.request("POST", request.path, request.body)
                answer = connection.getresponse()
                content = answer.read()
                time.sleep(_PAUSE_S)  # for what follows the answer
            if answer.status != HTTPStatus.OK:
                raise RuntimeError(f"{kind}: status {answer.status}, {content!r}")
            ways.append((tracer.calls, tracer.after))
        found[kind] = sorted(ways[_WARM_UP:], key=lambda way: len(way[0]))[_TRACED // 2]
    connection.close()
    return found


def run() -> dict[str, tuple[Calls, Calls]]:
    """Serve the tiny model in this process, and trace it."""
    target = Target("127.0.0.1", free_port())
    settings = tiny.settings(host=target.host, port=target.port, log_level="warning")
    tracer = Tracer()

    def ask_and_stop() -> dict[str, tuple[Calls, Calls]]:
        try:
            return trace(tracer, target)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    tiny.converted_folder()
    with ThreadPoolExecutor(1) as client:
        found = client.submit(ask_and_stop)
        threading.setprofile(tracer)
        sys.setprofile(tracer)
        with suppress(SystemExit):
            app.serve(settings)
        sys.setprofile(None)
        threading.setprofile(None)
    return found.result()


def function_rows(calls: Calls) -> Iterator[tuple[str, ...]]:
    """List the functions of a way, those first that are called most."""
    for function, count in Counter(calls).most_common():
        path = Path(function.file).relative_to(ROOT)
        yield str(count), function.name, f"{path}:{function.line}"


def main() -> None:
    """Print a row for each kind of request, and on demand the functions behind it."""
    parser = argparse.ArgumentParser("bench.trace", description="Count the calls of one request.")
    parser.add_argument("--functions", action="store_true", help="list each function's calls")
    options = parser.parse_args()
    found = run()
    rows = [(kind, *map(str, Way.of(*calls))) for kind, calls in found.items()]
    print(table(("one request", *Way._fields), rows))
    if options.functions:
        for kind, (calls, _) in found.items():
            print(f"\n{kind}\n")
            print(table(("calls", "function", "where"), list(function_rows(calls))))


if __name__ == "__main__":
    main()

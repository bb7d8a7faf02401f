"""Counts the calls of this project's functions that answer one request: `python -m bench.trace`.

The service runs in this process under `sys.setprofile`, and a thread sends requests. All calls of
Python functions in the product's files count, in every thread, from the request's bytes to the last
byte of its answer. Three kinds do not count: the class of the connection (`web/protocol.py`), which
is part of the server; comprehensions, which are functions in Python 3.11; and coroutines that
resume after a wait.
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
    """A function; code objects alone may be equal in different files."""

    file: str
    line: int
    name: str


Calls: TypeAlias = Sequence[Function]


@dataclass
class Tracer:
    """A profile function that records the calls of the product's functions, in order.

    Attributes:
        calls: calls since the last `recording`, up to the end of the answer.
        after: calls after the answer.
    """

    calls: list[Function] = field(default_factory=list)
    after: list[Function] = field(default_factory=list)
    _into: list[Function] | None = None

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        """Record an event of any thread."""
        if self._into is None:
            return
        code = frame.f_code
        if event == "call" and is_counted(code.co_filename, code.co_name) and _begins(frame):
            self._into.append(Function(code.co_filename, code.co_firstlineno, code.co_qualname))
        elif event == "return" and _ends_answer(frame):
            self._into = self.after

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the calls of one request."""
        self.calls, self.after = [], []
        self._into = self.calls
        try:
            yield
        finally:
            self._into = None


class Way(NamedTuple):
    """Counts of the calls of one request.

    Attributes:
        calls: number of calls.
        functions: number of distinct functions, without lambdas.
        files: number of their files.
        changes: number of calls in another file than the call before.
        after: number of calls after the answer, such as for metrics.
    """

    calls: int
    functions: int
    files: int
    changes: int
    after: int

    @classmethod
    def of(cls, calls: Calls, after: Calls = ()) -> Way:
        """Count the calls of a request."""
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
    """Return whether a function belongs to the product and is no comprehension."""
    path = Path(file)
    if path == _SERVER or name in _COMPREHENSIONS or not path.is_relative_to(ROOT):
        return False
    room, *rest = path.relative_to(ROOT).parts
    return not rest or room in PRODUCT


def _begins(frame: FrameType) -> bool:
    return frame.f_lasti <= _first_instruction(frame.f_code)


@cache
def _first_instruction(code: CodeType) -> int:
    """Return the offset of a function's first instruction; a coroutine resumes behind it."""
    if not code.co_flags & (
        inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
    ):
        return len(code.co_code)
    return next(one.offset for one in dis.get_instructions(code) if one.opname == "RESUME")


def _ends_answer(frame: FrameType) -> bool:
    """Return whether uvicorn has just written the last byte of an answer."""
    if frame.f_code.co_name != "send" or "uvicorn" not in frame.f_code.co_filename:
        return False
    return bool(getattr(frame.f_locals.get("self"), "response_complete", False))


def requests() -> Mapping[str, Sequence[Request]]:
    """Return the requests of each kind: a warm-up, then the requests to trace."""
    count = _WARM_UP + _TRACED
    clip, texts = wire.reference(), wire.text_reference()
    return {
        "a text, computed": [clip.text_request(inputs.text(n)) for n in range(count)],
        "a text, remembered": [clip.text_request(inputs.text(0))] * count,
        "ten sentences": [texts.text_request(inputs.passage(n)) for n in range(count)],
    }


def trace(tracer: Tracer, target: Target) -> dict[str, tuple[Calls, Calls]]:
    """Send the requests; return, for each kind, the calls of the median request."""
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
                time.sleep(_PAUSE_S)  # for the calls after the answer
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
    """Yield table rows of functions, by number of calls."""
    for function, count in Counter(calls).most_common():
        path = Path(function.file).relative_to(ROOT)
        yield str(count), function.name, f"{path}:{function.line}"


def main() -> None:
    """Print a row for each kind of request, and with `--functions` the functions."""
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

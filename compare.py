#!/usr/bin/env python3
"""Compares the vectors of two running containers: can a collection keep its vectors?

    ./compare.py OLD_URL NEW_URL [--folder DIR] [--config JSON]

Sends the same texts and images to both, one a request as Weaviate does, by `/vectorize` and
`/vectors`, as far as OLD serves them; rerankers get documents by `/rerank`, and their scores and
order are compared. It needs only Python, and smoke_test.py beside it.

Exit status: 0 for the same vectors, 1 for nearly the same, 3 if everything must be imported again,
4 if NEW has no vector where OLD has one, or if a container refuses requests, and 2 if nothing can
be compared.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import re
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from smoke_test import BLUE, RED, Answer, Container, error_message

SAME_COSINE, NEAR_COSINE = 0.999999, 0.999
SAME_LENGTH = 1e-4

Kind: TypeAlias = Literal["text", "image"]
Vector: TypeAlias = Sequence[float]


class Sample(NamedTuple):
    """An input with a name: a text, or the base64 of an image file."""

    kind: Kind
    name: str
    content: str


# --- inputs

TEXTS = (
    "a red circle",
    "A Red CIRCLE, and a big blue square!",
    "How do I bake bread? Mix flour and water. Wait a day. Then bake it, e.g. at 230 °C.",
    "Zwei Füchse laufen über die Straße; il fait très beau aujourd'hui.",
    "富士山の写真。两只猫在睡觉。",
    "  spaces,\n\nlines\tand tabs  ",
    "emoji 🦊🏔️ and symbols ±≠∞ <b>&amp;</b>",
    "12345.678 1e-9 C3PO user@example.com https://example.com/a?b=c",
    "word " * 40 + "end of a long sentence",
    "A sentence of a long text, with its number. " * 60,
    "",
)


def _png(width: int, height: int, colour: Callable[[int, int], tuple[int, int, int]]) -> str:
    rows = b"".join(
        b"\0" + bytes(value for x in range(width) for value in colour(x, y)) for y in range(height)
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    file = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return base64.b64encode(file).decode()


def _gradient(x: int, y: int) -> tuple[int, int, int]:
    return x % 256, y % 256, (x + y) % 256


def _rings(x: int, y: int) -> tuple[int, int, int]:
    return (240, 200, 30) if int(math.hypot(x - 150, y - 150)) // 20 % 2 else (20, 60, 90)


def built_in() -> list[Sample]:
    """Return the built-in texts and images."""
    images = {
        "red circle, 32x32": RED,
        "blue circle, 32x32": BLUE,
        "gradient, 320x240": _png(320, 240, _gradient),
        "rings, 300x300": _png(300, 300, _rings),
        "gradient, 60x400": _png(60, 400, _gradient),
    }
    texts = [Sample("text", text, text) for text in TEXTS]
    return texts + [Sample("image", name, content) for name, content in images.items()]


_IMAGES = re.compile(r"\.(jpe?g|png|gif|webp|bmp|tiff?|avif|jp2|hei[cf])", re.IGNORECASE)


def read_folder(folder: Path) -> list[Sample]:
    """Return the lines of text files and the images in a folder and its subfolders.

    Raises:
        ValueError: there are no inputs, or a text file is not UTF-8.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() == ".txt":
            found += [Sample("text", line, line) for line in _lines(path) if line.strip()]
        elif _IMAGES.fullmatch(path.suffix):
            content = base64.b64encode(path.read_bytes()).decode()
            found.append(Sample("image", str(path.relative_to(folder)), content))
    if not found:
        raise ValueError(f"{folder} is no folder with lines in *.txt, or images")
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error


# --- requests


class Reply(NamedTuple):
    """An answer: its status, and its vector or its error message."""

    status: int
    vector: Vector | None
    message: str = ""


@dataclass(frozen=True)
class Interface:
    """A way to request a vector: a path, the body for a sample, and the vector's place."""

    name: str
    path: str
    body: Callable[[Sample], dict[str, Any] | None]
    vector_in: Callable[[Any], Vector]

    def ask(self, container: Container, sample: Sample) -> Reply:
        """Request the vector of a sample."""
        status, answer = container.ask("POST", self.path, self.body(sample))
        if status == 200:
            return Reply(status, self.vector_in(answer))
        return Reply(status, None, error_message(answer))


def interfaces(config: dict[str, Any]) -> list[Interface]:
    """Return all interfaces; `config` is sent with the texts of `/vectors`."""

    def vectorize(sample: Sample) -> dict[str, Any]:
        return {"texts" if sample.kind == "text" else "images": [sample.content]}

    def vectors(task: str) -> Callable[[Sample], dict[str, Any] | None]:
        def body(sample: Sample) -> dict[str, Any] | None:
            if sample.kind == "text":
                return {"text": sample.content, "config": {**config, "task_type": task}}
            # An image has no task: it is requested once.
            return {"id": sample.name, "image": sample.content} if task == "passage" else None

        return body

    def first(answer: Any) -> Vector:
        vector: Vector = (answer["textVectors"] + answer["imageVectors"])[0]
        return vector

    return [
        Interface("/vectorize", "/vectorize", vectorize, first),
        Interface("/vectors", "/vectors", vectors("passage"), itemgetter("vector")),
        Interface("/vectors, query", "/vectors", vectors("query"), itemgetter("vector")),
    ]


# --- results

Outcome: TypeAlias = Literal["same", "nearly", "DIFFERENT", "old fails", "NEW FAILS", "both fail"]


class RefusedError(Exception):
    """A container rejects all requests, such as those without a token; the message says why."""


class Row(NamedTuple):
    """The answers of both containers to a sample, by one interface."""

    interface: str
    sample: Sample
    old: Reply
    new: Reply

    @property
    def cosine(self) -> float:
        """The cosine of both vectors; NaN if there are not two vectors of one length."""
        old, new = self.old.vector, self.new.vector
        if old is None or new is None or len(old) != len(new):
            return math.nan
        lengths = length(old) * length(new)
        if not lengths:  # a zero vector has no direction
            return 1.0 if length(old) == length(new) else 0.0
        return math.fsum(a * b for a, b in zip(old, new, strict=True)) / lengths

    @property
    def outcome(self) -> Outcome:
        """How the answer of NEW compares with the answer of OLD."""
        if self.old.vector is not None and self.new.vector is not None:
            return self._judge_cosine(length(self.old.vector), length(self.new.vector))
        if self.old.vector is not None:
            return "NEW FAILS"
        return "both fail" if self.new.vector is None else "old fails"

    def _judge_cosine(self, old: float, new: float) -> Outcome:
        as_long = math.isclose(old, new, rel_tol=SAME_LENGTH / 10, abs_tol=SAME_LENGTH)
        if self.cosine >= SAME_COSINE and as_long:
            return "same"
        return "nearly" if self.cosine >= NEAR_COSINE else "DIFFERENT"


def length(vector: Vector) -> float:
    """Return the Euclidean length of a vector."""
    return math.sqrt(math.fsum(value * value for value in vector))


def compare(
    old: Container, new: Container, samples: Sequence[Sample], config: dict[str, Any]
) -> Iterator[Row]:
    """Send every sample to both containers by each interface that `old` serves; yield answers.

    Raises:
        RefusedError: a container rejects the token, or requires one.
    """
    for interface in interfaces(config):
        if old.serves(interface.path):
            yield from _compare_by(interface, old, new, samples)


def _compare_by(
    interface: Interface, old: Container, new: Container, samples: Sequence[Sample]
) -> Iterator[Row]:
    unread: set[Kind] = set()
    read: set[Kind] = set()
    for sample in samples:
        if sample.kind in unread or interface.body(sample) is None:
            continue
        row = Row(interface.name, sample, *(interface.ask(one, sample) for one in (old, new)))
        yield row
        _check_tokens((old, new), (row.old, row.new))
        if row.outcome == "both fail" and sample.kind not in read:
            unread.add(sample.kind)  # the model does not read this kind
        read.add(sample.kind)


def _check_tokens(containers: Sequence[Container], replies: Sequence[Reply]) -> None:
    for name, container, reply in zip(("OLD", "NEW"), containers, replies, strict=True):
        if reply.status in {401, 403}:
            raise RefusedError(
                f"{name}, {container.url}, refuses with {reply.status}: {reply.message}. A "
                "token goes into the URL: http://any:TOKEN@host:8080"
            )


# --- rerankers

QUERIES = ("How do I bake bread?", "a big blue square", "two cats asleep")
SAME_SCORE = 1e-4


def compare_scores(old: Container, new: Container, documents: Sequence[str]) -> int:
    """Ask both to rank all documents, print how they differ; return the exit status.

    Raises:
        RefusedError: a container rejects the token, or requires one.
    """
    statuses = []
    for query in QUERIES:
        body = {"query": query, "documents": list(documents), "property": ""}
        answers = [one.ask("POST", "/rerank", body) for one in (old, new)]
        replies = [Reply(one.status, None, error_message(one.body)) for one in answers]
        _check_tokens((old, new), replies)
        status, verdict = _compare_query(*answers)
        statuses.append(status)
        print(f"/rerank          {len(documents)} documents for {query!r}: {verdict}", flush=True)
    worst = max(statuses)
    print(f"\nscores: {_SCORES[worst]}.")
    return worst


def _compare_query(old: Answer, new: Answer) -> tuple[int, str]:
    if old.status != 200 or new.status != 200:
        told = [f"{one.status} {error_message(one.body)}" for one in (old, new)]
        return (2 if old.status != 200 else 4), f"OLD {told[0]}; NEW {told[1]}"
    pairs = [
        (before["score"], after["score"])
        for before, after in zip(old.body["scores"], new.body["scores"], strict=True)
    ]
    most = max(abs(before - after) for before, after in pairs)
    if most <= SAME_SCORE:
        return 0, "the same scores"
    is_same_order = all(
        worse[1] <= better[1] + SAME_SCORE for worse, better in pairwise(sorted(pairs))
    )
    return (1 if is_same_order else 3), f"scores differ by up to {most:.3g}"


_SCORES = {
    0: "the same scores",
    1: "the same order, by other scores: set TEXT_MODE=reference where they are shown or cut off",
    2: "nothing could be compared, as OLD has none",
    3: "another order, so another model",
    4: "NEW has none where OLD has them",
}


# --- report

_SENTENCES = {
    "same": "the same vectors: a collection can keep its vectors",
    "nearly": "nearly the same vectors: searches will hardly differ, but import again rather than "
    "mix both in one collection",
    "DIFFERENT": "other vectors: import everything again",
}


def show(row: Row) -> str:
    """Format a row of the table that compares two containers."""
    lengths = [_number(reply.vector and length(reply.vector), 5) for reply in row[2:]]
    cells = [
        f"{row.interface:16}",
        f"{row.sample.kind:8}",
        f"{' '.join(row.sample.name.split())[:34]:34}",
        f"{_number(row.cosine, 8):>11}",
        *(f"{one:>10}" for one in lengths),
        f"{row.old.status:>4} {row.new.status:>4} ",
        row.outcome,
    ]
    return " ".join(cells)


_HEADING = f"{'':60} {'cosine':>11} {'old length':>10} {'new length':>10}  old  new"


def _number(value: float | Vector | None, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, float) and math.isfinite(value) else "-"


def conclude(rows: Sequence[Row]) -> int:
    """Print the verdicts on texts and images; return the exit status."""
    print()
    answered = {row.interface for row in rows if row.outcome != "both fail"}
    silent = sorted({row.interface for row in rows} - answered)
    if answered and silent:
        print(f"Neither answers by {' and by '.join(silent)}: is --config right?")
        return 2
    verdicts = [_conclude_kind(kind, rows) for kind in ("text", "image")]
    found = [verdict for verdict in verdicts if verdict is not None]
    if not found:
        print("Nothing could be compared: OLD answers none of this with a vector.")
        return 2
    return max(found)


def _conclude_kind(kind: Kind, rows: Sequence[Row]) -> int | None:
    outcomes = [row.outcome for row in rows if row.sample.kind == kind]
    failed = [row.new for row in rows if row.sample.kind == kind and row.outcome == "NEW FAILS"]
    order: tuple[Outcome, ...] = ("DIFFERENT", "nearly", "same")
    worst = next((one for one in order if one in outcomes), None)
    if failed:
        first = f"{failed[0].status} {failed[0].message}"
        print(f"{kind}s: NEW has no vectors for {len(failed)} that OLD answers: {first}")
    if gained := outcomes.count("old fails"):
        print(f"{kind}s: NEW answers {gained} for which OLD has no vectors.")
    if worst is None:
        return 4 if failed else None
    print(f"{kind}s: {_SENTENCES[worst]} ({outcomes.count(worst)} of {len(outcomes)}).")
    return 4 if failed else {"same": 0, "nearly": 1, "DIFFERENT": 3}[worst]


def json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object; argparse names this function in its error."""
    return {**json.loads(text)}


def main() -> int:
    """Compare two containers, print the table and the verdicts."""
    form = argparse.ArgumentParser(description="Compare the vectors of two running containers.")
    form.add_argument("old", help="the container whose vectors you have, such as http://host:8080")
    form.add_argument("new", help="the container that shall replace it")
    form.add_argument("--folder", type=Path, help="texts (*.txt, one a line) and images of yours")
    form.add_argument(
        "--config",
        type=json_object,
        default={},
        help='what your collection sets for /vectors, such as \'{"pooling_strategy": "cls"}\'',
    )
    options = form.parse_args()
    try:
        samples = [*built_in(), *(read_folder(options.folder) if options.folder else [])]
        pair = Container(options.old), Container(options.new)
    except (OSError, ValueError) as error:
        form.error(str(error))  # ends with 2
    rows = []
    try:
        if pair[0].ranks_documents():
            texts = [sample.content for sample in samples if sample.kind == "text"]
            return compare_scores(*pair, texts)
        print(_HEADING)
        for row in compare(*pair, samples, options.config):
            rows.append(row)
            print(show(row), flush=True)
    except RefusedError as error:
        print(f"\n{error}" if rows else error)
        return 4
    except (OSError, HTTPException) as error:
        message = f"No comparison of {options.old} and {options.new}: {error}"
        print(f"\n{message}" if rows else message)
        return 2
    return conclude(rows)


if __name__ == "__main__":
    sys.exit(main())

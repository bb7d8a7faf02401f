"""Sentences are those that nltk's own English Punkt finds."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from random import Random

import pytest
from nltk import redos

from backends.preprocessing import sentences
from backends.preprocessing.sentences import split
from errors import RequestTooLargeError

TEXTS = [
    ("", []),
    (" \n\t ", []),
    ("One sentence", ["One sentence"]),
    ("  One.\n\nTwo\tthree.  ", ["One.", "Two three."]),
    (
        "Dr. Smith went to the U.S. in Jan. He didn't like it! Prof. Jones (Ph.D.) paid.",
        ["Dr. Smith went to the U.S. in Jan.", "He didn't like it!", "Prof. Jones (Ph.D.) paid."],
    ),
    ('He said "Stop!" Then he left.', ['He said "Stop!"', "Then he left."]),
    ("It costs 3.50 dollars. It is at www.example.org. Ok?", 3),
    ("Er frisst z. B. gern Äpfel. Er bellt.", ["Er frisst z.", "B. gern Äpfel.", "Er bellt."]),
    ("これは日本語の文です。猫が好きです。", ["これは日本語の文です。猫が好きです。"]),
]


@pytest.mark.parametrize(("text", "expected"), TEXTS)
def test_a_text_is_split_as_nltk_splits_it(text: str, expected: list[str] | int) -> None:
    found = split(text)

    assert found == expected if isinstance(expected, list) else len(found) == expected


def test_what_needs_no_look_is_what_punkt_finds_too(monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(0)
    parts = ["a", "Dr", "B", ".", "?", "!", ")", '"', "…", "。", "1", "'", " ", " ", "\n", "\x1c"]
    texts = ["".join(random.choices(parts, k=random.randint(0, 12))) for _ in range(5_000)]
    found = [split(text) for text in texts]

    monkeypatch.setattr(sentences, "_ENDS", re.compile(""))  # now Punkt looks at every text

    assert found == [split(text) for text in texts]


def test_many_threads_may_split_at_a_time() -> None:
    texts = [f"No. {number} is here. Mr. {number} is not! Really?" for number in range(500)]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(split, texts)) == [split(text) for text in texts]


@pytest.mark.parametrize(
    "unit", [".", "!", "a.", "a. ", "A! ", ". ", '."', "1. ", ".) ", ",!", "a!.", "-", "😀"]
)
def test_no_text_takes_much_longer_than_its_length(
    monkeypatch: pytest.MonkeyPatch, unit: str
) -> None:
    monkeypatch.setattr(sentences, "_MAX_ENDS", 50_000)

    def seconds(characters: int) -> float:
        started_s = time.process_time()
        split(unit * (characters // len(unit)))
        return time.process_time() - started_s

    few, many = seconds(5_000), seconds(50_000)
    assert many < 40 * few + 0.1  # of ten times the length; quadratic would be a hundred


@pytest.mark.parametrize("unit", ["a. ", "A! ", "Why?) "])
def test_too_many_possible_ends_are_refused_before_they_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, unit: str
) -> None:
    monkeypatch.setattr(redos, "DEFAULT_TIMEOUT", 1e-6)  # Punkt would fail otherwise

    with pytest.raises(RequestTooLargeError, match=r"^10001 possible ends .* at most 10000"):
        split(unit * 10_001 + "a")


def test_numbers_and_dots_are_no_ends() -> None:
    assert len(split("3.50 " * 100_000 + "." * 100_000)) == 1


def test_a_text_that_takes_too_long_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redos, "DEFAULT_TIMEOUT", 1e-6)

    with pytest.raises(RequestTooLargeError, match=r"^60000 characters, whose sentences were not"):
        split("Words. " * 8_571 + "End")


def test_libraries_that_splitting_does_not_need_are_there_for_others() -> None:
    assert "sklearn" in import_module("sklearn.metrics").__name__

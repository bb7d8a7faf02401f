"""Splits a text of any language into sentences with Punkt for English, as the reference does.

Punkt finds sentence ends with statistics of a training text: abbreviations, collocations, frequent
first words of sentences, and capitalization. The implementation is nltk's; the statistics are in
`punkt_english/`.

See Kiss and Strunk, "Unsupervised Multilingual Sentence Boundary Detection", Computational
Linguistics 32 (2006), and https://www.nltk.org/api/nltk.tokenize.punkt.html
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from errors import RequestTooLargeError


@contextmanager
def _without(*packages: str) -> Iterator[None]:
    """Hide packages during an import that does not need them."""
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


# nltk would load these packages for classifiers that are not used here: 1 s and 90 MB.
with _without("sklearn", "scipy"):
    from nltk.tokenize.punkt import PunktLanguageVars, PunktParameters, PunktSentenceTokenizer

_STATISTICS = Path(__file__).parent / "punkt_english"


class _Counts(dict[str, int]):
    """Counts of words. It replaces nltk's class, which would store every word that is looked up."""

    def __missing__(self, _word: str) -> int:
        return 0


def _rows(name: str) -> list[tuple[str, ...]]:
    lines = (_STATISTICS / name).read_text("utf-8").split("\n")
    return [tuple(line.split("\t")) for line in lines if line]


def _load() -> PunktSentenceTokenizer:
    parameters = PunktParameters()
    parameters.abbrev_types = {word for (word,) in _rows("abbrev_types.txt")}
    parameters.collocations = set(_rows("collocations.tab"))
    parameters.sent_starters = {word for (word,) in _rows("sent_starters.txt")}
    parameters.ortho_context = _Counts(
        (word, int(contexts)) for word, contexts in _rows("ortho_context.tab")
    )
    return PunktSentenceTokenizer(parameters)


_PUNKT = _load()
# Possible sentence ends: sentence punctuation before white space or other punctuation. Punkt spends
# most of its time on them.
_ENDS = re.compile(rf"[{re.escape(''.join(PunktLanguageVars.sent_end_chars))}](?=[^\w.])")
_MAX_ENDS = 10_000  # so many take half a second; nltk stops after five seconds


def split(text: str) -> list[str]:
    """Return the sentences of a text, with white space collapsed; an empty list for a blank text.

    This function is thread-safe.

    Raises:
        RequestTooLargeError: the text has too many possible sentence ends, or the search takes
            too long.
    """
    text = " ".join(text.split())
    ends = len(_ENDS.findall(text))
    if not ends:  # without Punkt, which would take a tenth of the request's time
        return [text] if text else []
    if ends > _MAX_ENDS:
        raise RequestTooLargeError(
            f"{ends} possible ends of sentences; at most {_MAX_ENDS} are allowed", "text_length"
        )
    try:
        sentences: list[str] = _PUNKT.tokenize(text)
    except TimeoutError as error:  # raised by nltk's own timeout
        raise RequestTooLargeError(
            f"{len(text)} characters, whose sentences were not found in time; send less at a time",
            "text_length",
        ) from error
    return sentences

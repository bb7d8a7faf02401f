"""From a text to its sentences, as the reference splits them: by Punkt, in English, whatever it is.

Punkt finds where sentences end by statistics of a training text: its abbreviations, collocations,
frequent starts of sentences, and which words it wrote with a capital where. The algorithm is
nltk's, the statistics lie in `punkt_english/`.

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
    """Let packages be missing for as long as something is imported that can do without them."""
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


# For its classifiers, which nobody asks for, nltk's package would load these: 1 s and 90 MB.
with _without("sklearn", "scipy"):
    from nltk.tokenize.punkt import PunktLanguageVars, PunktParameters, PunktSentenceTokenizer

_STATISTICS = Path(__file__).parent / "punkt_english"


class _Counts(dict[str, int]):
    """Counts of words; nltk's own would remember every word that it is ever asked for."""

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
# Where Punkt looks closer, which takes it most of its time: white space follows, or punctuation.
_ENDS = re.compile(rf"[{re.escape(''.join(PunktLanguageVars.sent_end_chars))}](?=[^\w.])")
_MOST_ENDS = 10_000  # half a second; after five of them nltk's searches give up


def split(text: str) -> list[str]:
    """Return the sentences of a text, white space collapsed; none of a blank one.

    Many threads may call it at a time.

    Raises:
        RequestTooLargeError: there may be too many, or it takes too long to find them.
    """
    text = " ".join(text.split())
    ends = len(_ENDS.findall(text))
    if not ends:  # of searches most: Punkt's patterns take a tenth of a request
        return [text] if text else []
    if ends > _MOST_ENDS:
        raise RequestTooLargeError(
            f"{ends} possible ends of sentences; at most {_MOST_ENDS} are allowed", "text_length"
        )
    try:
        sentences: list[str] = _PUNKT.tokenize(text)
    except TimeoutError as error:  # nltk's own bound of each search, by the clock
        raise RequestTooLargeError(
            f"{len(text)} characters, whose sentences were not found in time; send less at a time",
            "text_length",
        ) from error
    return sentences

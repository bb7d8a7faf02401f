"""What of a long text is read: enough for the same vector, and no more than that."""

import time

import numpy as np
import pytest

from backends.embed import embed_all
from backends.inputs import tokens
from backends.inputs.tokens import beginning
from tests.golden_cases import EVERY_LAYOUT, embed_texts, golden_model

LONG = {
    "words": "a photo of a cat " * 1500,
    "one word": "ab" * 10_000,
    "emojis": "😀" * 10_000,
    "spaces": "a" + " " * 20_000 + "cat " * 2000,
    "lines": "=" * 300 + "\n" + "Zebra, quagga & zorse. " * 700,
}


def test_a_text_is_cut_after_so_many_characters_that_are_no_spaces() -> None:
    assert beginning("ab" * 64, tokens=2) == "ab" * 64
    assert beginning("ab" * 65, tokens=2) == "ab" * 64
    assert beginning("a " * 200, tokens=2).split() == ["a"] * 128
    assert beginning(" " * 1000 + "a" * 200, tokens=2) == " " * 1000 + "a" * 128


@EVERY_LAYOUT
@pytest.mark.parametrize("name", LONG)
def test_what_is_not_read_changes_no_vector(
    layout: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = golden_model(layout, "trained")
    (cut,) = embed_all(model.towers["text"], [LONG[name]])
    monkeypatch.setattr(tokens, "CHARS_PER_TOKEN", 10**9)
    (whole,) = embed_all(model.towers["text"], [LONG[name]])

    np.testing.assert_array_equal(cut.vector, whole.vector)
    assert (cut.tokens, cut.truncated) == (whole.tokens, whole.truncated)


@EVERY_LAYOUT
@pytest.mark.parametrize("unit", ["😀", "a photo of a cat ", "ab"])
def test_a_very_long_text_costs_little_more_than_a_long_one(layout: str, unit: str) -> None:
    model = golden_model(layout, "trained")
    text = (unit * 100_000)[:100_000]
    embed_texts(model, [text])
    started_s = time.process_time()
    embed_texts(model, [text] * 4)

    assert time.process_time() - started_s < 0.5  # without the cut 0.7 s to 2.8 s

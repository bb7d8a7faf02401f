"""What of a long text is read: enough for the same vector, and no more than that."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from backends.model import EmbeddingResult, EncodeParams, Runtime
from backends.preprocessing import tokens
from backends.preprocessing.single_part import SinglePart
from backends.preprocessing.tokens import Padding, beginning
from tests.golden_cases import EVERY_LAYOUT, EVERY_RUNTIME, LAYOUTS, embed_texts, golden_model

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


@pytest.mark.parametrize("name", LONG)
@EVERY_LAYOUT
def test_what_is_not_read_changes_no_vector(
    layout: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arrays for the network are equal. Computing 8,192 tokens would take seconds."""
    processor = golden_model(layout, "trained").towers["text"].processor

    def read() -> list[tuple[list[Any], int, bool, int]]:
        params = processor.resolve(EncodeParams())
        parts, _ = processor.split(LONG[name], params)
        items = [processor.prepare(part, params) for part in parts]
        return [
            ([one.tolist() for one in i.arrays], i.tokens, i.truncated, i.pooling_index)
            for i in items
        ]

    cut = read()
    monkeypatch.setattr(tokens, "CHARS_PER_TOKEN", 10**9)
    assert cut == read()


# But for those that read 8,192 tokens: of a text of this length little is left out.
@pytest.mark.parametrize(
    "layout", [layout for layout in LAYOUTS if layout not in ("modernvbert", "qwen3_vl")]
)
@pytest.mark.parametrize("unit", ["😀", "a photo of a cat ", "ab"])
def test_a_very_long_text_costs_little_more_than_a_long_one(layout: str, unit: str) -> None:
    model = golden_model(layout, "trained")
    text = (unit * 100_000)[:100_000]
    embed_texts(model, [text])
    started_s = time.process_time()
    embed_texts(model, [text] * 4)

    assert time.process_time() - started_s < 0.5  # without the cut 0.7 s to 2.8 s


@EVERY_RUNTIME
@EVERY_LAYOUT
def test_many_threads_prepare_as_one_does(layout: str, runtime: Runtime) -> None:
    """Tokenizers of transformers note in themselves where to cut, at every call."""
    processor = golden_model(layout, "trained", runtime).towers["text"].processor
    texts = [f"{'a photo of a cat ' * (number % 40)}{number}" for number in range(200)]

    def prepared(text: str) -> tuple[list[int], int, bool]:
        made = processor.prepare(text, EncodeParams())
        return made.arrays[0].tolist(), made.tokens, made.truncated

    with ThreadPoolExecutor(8) as pool:
        by_many = list(pool.map(prepared, texts))

    assert by_many == [prepared(text) for text in texts]


@pytest.mark.parametrize(
    ("to", "tokens", "length"),
    [
        ("rounded", 0, 4),
        ("rounded", 8, 8),
        ("rounded", 9, 12),
        ("rounded", 33, 40),
        ("rounded", 73, 77),
        ("rounded", 77, 77),
        ("full", 3, 77),
        ("nothing", 3, 3),
    ],
)
def test_a_text_is_padded_to_its_own_length_and_never_past_the_last_position(
    to: Any, tokens: int, length: int
) -> None:
    padding = Padding(to, longest=77, token_id=9, masked=True)
    ids, mask = padding([5] * tokens)

    assert ids.tolist() == [5] * tokens + [9] * (length - tokens)
    assert mask.tolist() == [1] * tokens + [0] * (length - tokens)


@EVERY_LAYOUT
def test_a_texts_cost_is_its_padded_length_and_about_what_was_estimated(layout: str) -> None:
    processor = golden_model(layout, "trained", "openvino").towers["text"].processor
    for text in ("a", "a photo of a cat " * 3, LONG["words"]):
        prepared = processor.prepare(text, EncodeParams())
        assert prepared.cost == prepared.bucket == len(prepared.arrays[0])
        assert prepared.tokens <= prepared.cost
        assert prepared.nbytes == sum(array.nbytes for array in prepared.arrays)
        assert processor.estimate(text) >= 1
        if prepared.truncated and layout != "qwen3_vl":  # its small vocabulary has short tokens
            assert processor.estimate(text) == prepared.cost
        else:
            assert processor.estimate(text) <= max(128, 2 * prepared.cost)


def test_parts_are_added_up_and_divided() -> None:
    one, two = (np.array(vector, np.float32) for vector in ([1, 2], [3, 6]))
    whole = SinglePart().join(
        [EmbeddingResult(one, 3), EmbeddingResult(two, 4, truncated=True)], divisor=4
    )

    assert whole.vector.tolist() == [1, 2]
    assert whole.vector.dtype == np.float32
    assert whole[1:] == (7, True)
    assert SinglePart().join([EmbeddingResult(one, 3)], divisor=1) == EmbeddingResult(one, 3)


def test_no_family_of_images_and_texts_uses_parameters() -> None:
    for tower in golden_model("openai", "trained").towers.values():
        assert tower.processor.resolve(EncodeParams(pooling="cls", task="query")) == EncodeParams()
        assert tower.processor.split("a", EncodeParams()) == (["a"], 1)

"""Pairs become ids as the tokenizers library makes and cuts them."""

import random

import numpy as np
import pytest
from tokenizers import Tokenizer as Vocabulary

from backends.model import EncodeParams, ModelInput, Pair
from backends.preprocessing.pairs import PairProcessor, PairRecipe, longest_first
from backends.preprocessing.tokens import Padding
from tests.golden_rerankers import GOLDEN_RERANKERS

WORDS = [
    "grey",
    "heron",
    "crossed",
    "before sunrise",
    "[SEP]",
    "</s>",
    "Äpfel",
    "日本",
    "😀",
    "1,000",
]


def vocabulary(name: str) -> Vocabulary:
    return Vocabulary.from_file(str(GOLDEN_RERANKERS / name / "model/tokenizer.json"))


def processor(name: str, longest: int = 512, typed: bool = True) -> PairProcessor:
    return PairProcessor(
        vocabulary(name), PairRecipe(Padding("rounded", longest, 0, masked=True), typed)
    )


def prepare(of: PairProcessor, query: str, document: str) -> ModelInput:
    return of.prepare(Pair(query, document), EncodeParams())


def lengths(prepared: ModelInput) -> tuple[int, int]:
    """How many tokens are of the query, with what is around it, and how many of the document."""
    _, mask, types = prepared.arrays
    return int(((types == 0) & (mask == 1)).sum()), int(types.sum())


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm_roberta", "deberta_v3"])
def test_pairs_are_cut_as_the_library_cuts_them(name: str) -> None:
    ours, library = processor(name, 24), vocabulary(name)
    library.enable_truncation(24, strategy="longest_first")
    chance = random.Random(5)

    for _ in range(300):
        query, document = (" ".join(chance.choices(WORDS, k=chance.randrange(25))) for _ in "qd")
        expected = library.encode(query, document)
        prepared = prepare(ours, query, document)
        ids, mask, types = prepared.arrays

        assert prepared.tokens == len(expected.ids) == mask.sum()
        np.testing.assert_array_equal(ids[: prepared.tokens], expected.ids)
        np.testing.assert_array_equal(types[: prepared.tokens], expected.type_ids)
        assert prepared.truncated == bool(expected.overflowing)


@pytest.mark.parametrize(
    ("halves", "room", "kept"),
    [
        ((100, 1000), 509, (100, 409)),
        ((1000, 100), 509, (409, 100)),
        ((255, 255), 509, (254, 255)),
        ((256, 255), 509, (255, 254)),
        ((0, 600), 509, (0, 509)),
        ((600, 0), 509, (509, 0)),
        ((600, 601), 10, (5, 5)),
    ],
)
def test_the_longer_half_loses_first(
    halves: tuple[int, int], room: int, kept: tuple[int, int]
) -> None:
    assert longest_first(halves, room) == kept


def test_two_long_halves_share_the_room() -> None:
    prepared = prepare(processor("bert"), "heron " * 700, "heron " * 600)

    assert (prepared.tokens, prepared.truncated) == (512, True)
    assert lengths(prepared) == (257, 255)


def test_an_empty_half_stays_a_half() -> None:
    texts = processor("bert")
    empty, blank = prepare(texts, "heron", ""), prepare(texts, "heron", " \u3000\u00a0\n")

    assert lengths(empty)[1] == 1  # its end
    assert lengths(prepare(texts, "", "heron"))[0] == 2
    assert prepare(texts, "", "").tokens == 3
    np.testing.assert_array_equal(blank.arrays, empty.arrays)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_blanks_at_the_ends_make_no_difference(name: str) -> None:
    texts = processor(name)

    np.testing.assert_array_equal(
        prepare(texts, "\u3000 grey heron\n", "\ta bay \u00a0").arrays,
        prepare(texts, "grey heron", "a bay").arrays,
    )


def test_the_halves_are_reported_apart_only_where_the_network_takes_it() -> None:
    assert len(prepare(processor("roberta", typed=False), "a", "b").arrays) == 2
    assert len(prepare(processor("bert", typed=True), "a", "b").arrays) == 3


def test_costs_and_buckets_are_padded_tokens_and_known_about_before() -> None:
    texts = processor("bert")
    pair = Pair("how many people live by the harbour", "the ferry crossed the bay " * 6)
    prepared = texts.prepare(pair, EncodeParams())

    assert prepared.bucket == prepared.cost == len(prepared.arrays[0]) >= prepared.tokens
    assert prepared.cost / 2 <= texts.estimate(pair) <= prepared.cost * 2
    assert texts.estimate(Pair("", "a" * 1_000_000)) == 512


def test_a_recipe_survives_json() -> None:
    recipe = PairRecipe(Padding("rounded", 77, 1, masked=True), typed=True)

    assert PairRecipe.from_json(recipe.as_json()) == recipe

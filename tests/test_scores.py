"""From logits to scores."""

from collections.abc import Callable

import numpy as np
import pytest

from backends.scores import ACTIVATIONS, Scores, sigmoid


def test_sigmoid_is_exact_and_keeps_the_order() -> None:
    logits = np.linspace(-12, 12, 97, dtype=np.float32)

    scores = sigmoid(logits)

    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits.astype(np.float64))), rtol=3e-7)
    assert (np.diff(scores) > 0).all()


def test_sigmoid_of_the_largest_numbers_is_no_nan_and_warns_of_nothing() -> None:
    extremes = np.array([-np.inf, -3e38, -1000, 0, 1000, 3e38, np.inf], np.float32)

    np.testing.assert_array_equal(sigmoid(extremes), [0, 0, 0, 0.5, 1, 1, 1])


@pytest.mark.parametrize("activate", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_no_activation_changes_the_order(activate: Callable[[Scores], Scores]) -> None:
    logits = np.random.default_rng(1).normal(0, 4, 200).astype(np.float32)

    np.testing.assert_array_equal(np.argsort(activate(logits)), np.argsort(logits))

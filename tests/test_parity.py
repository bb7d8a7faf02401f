"""Vectors equal the reference's, or what the model was trained to give where the reference errs."""

import random

import numpy as np
import pytest

from backends.model import Runtime, TextMode
from tests.golden_cases import (
    GOLDEN,
    LAYOUTS,
    MODES,
    RUNTIMES,
    assert_same,
    golden_backend,
    image_cases,
    text_cases,
)
from tests.pictures import READER

EVERY_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)
EVERY_MODE = pytest.mark.parametrize("mode", MODES)
EVERY_RUNTIME = pytest.mark.parametrize("runtime", RUNTIMES)


@EVERY_RUNTIME
@EVERY_LAYOUT
@EVERY_MODE
def test_texts_have_the_recorded_vectors_alone_and_in_any_batch(
    layout: str, mode: TextMode, runtime: Runtime
) -> None:
    backend = golden_backend(layout, mode, runtime)
    cases = text_cases(layout, mode)
    alone = [backend.encode_text([case.content])[0] for case in cases]
    for vector, case in zip(alone, cases, strict=True):
        assert_same(vector, case)

    order = random.Random(7).sample(range(len(cases)), len(cases))
    together = backend.encode_text([cases[i].content for i in order])
    np.testing.assert_allclose(together, [alone[i] for i in order], rtol=0, atol=1e-5)


@EVERY_RUNTIME
@EVERY_LAYOUT
def test_images_have_the_recorded_vectors_alone_and_in_any_batch(
    layout: str, runtime: Runtime
) -> None:
    backend = golden_backend(layout, "trained", runtime)
    cases = image_cases(layout)
    files = [(GOLDEN / "images" / case.content).read_bytes() for case in cases]
    pixels = [backend.preprocess(READER.open(raw)) for raw in files]
    alone = [backend.encode_image([picture])[0] for picture in pixels]
    for vector, case in zip(alone, cases, strict=True):
        assert_same(vector, case)

    order = random.Random(7).sample(range(len(cases)), len(cases))
    together = backend.encode_image([pixels[i] for i in order])
    np.testing.assert_allclose(together, [alone[i] for i in order], rtol=0, atol=1e-5)


@EVERY_LAYOUT
def test_the_dimensions_told_are_those_of_the_vectors(layout: str) -> None:
    backend = golden_backend(layout, "trained")

    assert backend.encode_text(["a"]).shape == (1, backend.info.dimensions)


@pytest.mark.parametrize("layout", ["siglip", "siglip1", "metaclip2"])
def test_the_text_modes_differ_where_the_reference_errs(layout: str) -> None:
    trained, reference = (
        golden_backend(layout, mode).encode_text(["A Cat on a mat"])[0] for mode in MODES
    )

    cosine = trained @ reference / (np.linalg.norm(trained) * np.linalg.norm(reference))
    assert cosine < 0.999


def test_siglip2_is_lower_cased_as_trained_and_not_by_the_reference() -> None:
    trained = golden_backend("siglip", "trained").encode_text(["A Cat", "a cat"])
    reference = golden_backend("siglip", "reference").encode_text(["A Cat", "a cat"])

    np.testing.assert_allclose(trained[0], trained[1], atol=1e-5)
    assert not np.allclose(reference[0], reference[1], atol=1e-3)

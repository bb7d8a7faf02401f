"""A hundred thousand broken images: each is an image or a clean refusal, and quickly."""

import time
from collections import Counter
from collections.abc import Iterable

import pytest

from backends.model import EncodeParams
from config import Settings
from errors import InvalidInputError
from inference.images.decoder import ImageLimits
from inference.images.preprocess import ImagePreprocessor
from inference.timings import ItemTimes
from tests.golden_cases import golden_model
from tests.mutants import BOMBS, mutants, resident_mb, seeds

# As the service does: Pillow warns of oddities in files that it then reads.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\..*")

SLOW_S = 1.0  # of a core, for a small file


def try_all(files: Iterable[bytes]) -> Counter[str]:
    """Decode and preprocess files one after the other; count what came of them."""
    settings = Settings()
    limits = ImageLimits(
        max_bytes=settings.max_image_bytes,
        max_pixels=settings.max_image_pixels,
        shorter_side_px=224,
        formats=settings.image_formats,
    )
    processor = golden_model("openai", "trained").towers["image"].processor
    preprocess, outcomes = ImagePreprocessor(processor, limits), Counter[str]()
    for raw in files:
        started_s = time.thread_time()
        try:
            (prepared,) = preprocess(raw, EncodeParams(), ItemTimes()).inputs
            outcomes["image"] += 1
            assert prepared.arrays[0].shape[0] == 3
        except InvalidInputError as error:
            outcomes[error.reason] += 1
        if (seconds := time.thread_time() - started_s) > SLOW_S:
            raise AssertionError(f"{seconds:.1f} s for {len(raw)} bytes: {raw[:60]!r}")
    return outcomes


def test_good_files_of_every_accepted_format_are_read() -> None:
    outcomes = try_all(seeds(Settings().image_formats[:-1]))

    assert outcomes["image"] == outcomes.total() > 60


def test_broken_files_are_read_or_refused() -> None:
    outcomes = try_all(mutants(seeds(Settings().image_formats[:-1]), 5000, seed=1))

    assert outcomes.total() == 5000
    assert outcomes["broken_image"] > 500
    assert outcomes["image"] > 500


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_or_harmless(name: str) -> None:
    bomb = BOMBS[name]()
    before_mb = resident_mb()
    try_all([bomb])

    assert resident_mb() - before_mb < 400


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_broken_files_leave_no_memory_behind() -> None:
    files = seeds(Settings().image_formats[:-1])
    try_all(mutants(files, 20_000, seed=2))
    before_mb = resident_mb()
    outcomes = try_all(mutants(files, 100_000, seed=3))

    print(f"{dict(outcomes)}, {before_mb:.0f} MB before, {resident_mb():.0f} MB after")
    assert outcomes.total() == 100_000
    assert resident_mb() - before_mb < 30

"""ModernVBERT: images in tiles, which are what they cost."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from transformers import Idefics3ImageProcessorPil

from backends.embed import embed
from backends.folder import detect
from backends.model import EncodeParams, ModelOptions, Rows, Runtime
from backends.preprocessing.header import read_size
from backends.preprocessing.tiles import Tiling
from backends.replicas import load_replica
from config import Settings
from errors import RequestTooLargeError
from inference.request import EmbedInput
from tests.golden_cases import EVERY_RUNTIME, GOLDEN, golden_model
from tests.image_files import base64_of, file_of, plain
from tests.service import CONVERTED
from vectorizer import Vectorizer

TILING = Tiling(Image.Resampling.LANCZOS, 2048, 512)
SMALL = Tiling(Image.Resampling.LANCZOS, 128, 32)
SIZES = [(640, 480), (480, 640), (300, 900), (900, 200), (100, 100), (64, 48), (1, 2000), (1, 1)]


def images(*sizes: tuple[int, int]) -> list[Image.Image]:
    random = np.random.default_rng(3)
    noise = (random.integers(0, 256, (h, w, 3), dtype=np.uint8) for w, h in sizes)
    return [Image.fromarray(pixels) for pixels in noise]


@pytest.mark.parametrize("size", SIZES[:-1])  # an image of one pixel, transformers misreads
def test_tiles_are_those_of_transformers(size: tuple[int, int]) -> None:
    processor = Idefics3ImageProcessorPil(
        size={"longest_edge": 128},
        max_image_size={"longest_edge": 32},
        do_rescale=False,
        do_normalize=False,
    )
    (image,) = images(size)
    reported = processor(image, return_tensors="np", return_row_col_info=True)

    np.testing.assert_array_equal(SMALL.cut(image), reported["pixel_values"][0])
    assert SMALL.grid_for(size) == (reported["rows"][0][0], reported["cols"][0][0])


@pytest.mark.parametrize(
    ("size", "bound", "grid"),
    [
        ((640, 480), None, (3, 4)),
        ((640, 480), 13, (3, 4)),
        ((640, 480), 12, (3, 3)),
        ((640, 480), 9, (2, 2)),
        ((640, 480), 4, (0, 0)),
        ((500, 500), 16, (3, 3)),
        ((2000, 1), 5, (1, 4)),
        ((2000, 1), 4, (1, 3)),
        ((1, 2000), 2, (0, 0)),
        ((1, 1), 1, (0, 0)),
    ],
)
def test_an_image_with_more_tiles_than_are_allowed_is_scaled_down(
    size: tuple[int, int], bound: int | None, grid: tuple[int, int]
) -> None:
    assert replace(TILING, max_tiles=bound).grid_for(size) == grid


@pytest.mark.parametrize("bound", [None, 1, 2, 7, 13, 17, 99])
def test_every_image_has_a_grid_that_was_foreseen(bound: int | None) -> None:
    tiling = replace(TILING, max_tiles=bound)
    sides = [*range(1, 40, 7), 511, 512, 513, 1000, 3000]
    found = {tiling.grid_for((width, height)) for width in sides for height in sides}

    assert found <= set(tiling.grids)
    assert max(grid.tiles for grid in found) <= (bound or 17)


@EVERY_RUNTIME
def test_images_of_many_grids_share_a_pass_and_do_not_change_each_other(
    runtime: Runtime,
) -> None:
    tower = golden_model("modernvbert", "trained", runtime).towers["image"]
    passes: list[int] = []

    def counted(*arrays: np.ndarray) -> Rows:
        passes.append(len(arrays[0]))
        return tower.network(*arrays)

    shown = images((640, 480), (300, 900), (900, 200), (64, 64))
    alone = [embed(tower, [image])[0] for image in shown]
    together = embed(replace(tower, network=counted), shown)

    assert passes == [13 + 9 + 5 + 17]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


def saved(image_format: str, **options: object) -> Callable[[Image.Image], bytes]:
    return lambda image: file_of(image, image_format, **options)


def with_much_metadata(image: Image.Image) -> bytes:
    return file_of(image, "JPEG", icc_profile=bytes(200_000))


@pytest.mark.parametrize(
    "file",
    [
        *(saved(name) for name in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "JPEG2000")),
        saved("WEBP"),
        saved("WEBP", lossless=True),
        saved("WEBP", exif=b"Exif\0\0" + bytes(8)),
        saved("PNG", compress_level=0),
    ],
)
def test_the_header_of_a_file_tells_the_size(file: Callable[[Image.Image], bytes]) -> None:
    assert read_size(file(images((643, 482))[0])) == (643, 482)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no picture",
        b"RIFF\x10\0\0\0WEBPVP9 ",
        b"RIFF\x10\0\0\0WEBP",
        plain()[:20],
        file_of(Image.new("RGB", (8, 8)), "ICO"),
        with_much_metadata(Image.new("RGB", (8, 8))),
    ],
)
def test_a_file_whose_beginning_does_not_tell_its_size_is_estimated_at_the_most(
    raw: bytes,
) -> None:
    processor = golden_model("modernvbert", "trained").towers["image"].processor

    assert read_size(raw) in {None, (0, 0)}
    assert processor.estimate(raw) == 17


@pytest.mark.parametrize("size", SIZES)
def test_the_estimate_is_what_an_image_costs(size: tuple[int, int]) -> None:
    processor = golden_model("modernvbert", "trained").towers["image"].processor
    (image,) = images(size)

    prepared = processor.prepare(image, EncodeParams())
    assert processor.estimate(file_of(image)) == prepared.cost == len(prepared.arrays[0])


@EVERY_RUNTIME
def test_a_bound_on_the_tiles_is_part_of_the_vector_space_where_it_binds(runtime: Runtime) -> None:
    folder = detect(GOLDEN / "modernvbert")
    free, wide, tight = (
        load_replica(
            folder, ModelOptions(runtime=runtime, cache_dir=CONVERTED, max_image_tiles=bound)
        )
        for bound in (None, 17, 5)
    )
    square, strip = images((100, 100), (900, 200))
    vectors = [embed(model.towers["image"], [square, strip]) for model in (free, tight)]

    assert free.info.runtime == tight.info.runtime == runtime
    assert free.info.vector_space == wide.info.vector_space != tight.info.vector_space
    assert not np.allclose(vectors[0][0], vectors[1][0], atol=1e-3)
    np.testing.assert_allclose(vectors[0][1], vectors[1][1], rtol=0, atol=1e-5)  # it has five


@pytest.mark.anyio
async def test_an_image_that_takes_too_long_by_itself_is_refused_by_its_header() -> None:
    model = golden_model("modernvbert", "trained")
    tower = model.towers["image"]

    def as_on_a_slow_machine(*arrays: np.ndarray) -> Rows:
        time.sleep(0.1 * len(arrays[0]))  # a tile
        return tower.network(*arrays)

    towers = {**model.towers, "image": replace(tower, network=as_on_a_slow_machine)}
    vectorizer = Vectorizer([replace(model, towers=towers)], Settings(request_timeout_s=1.5))
    square = file_of(Image.new("RGB", (100, 100)))[:40]  # what comes after its header is missing
    try:
        await vectorizer.warm_up()
        with pytest.raises(RequestTooLargeError, match=r"at least \d+ s here.* a smaller one"):
            await vectorizer.embed([EmbedInput("images[0]", "image", base64_of(square))])
    finally:
        await vectorizer.aclose()

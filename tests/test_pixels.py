"""Our preprocessing against the image processors of transformers, pixel for pixel."""

import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPImageProcessorPil, SiglipImageProcessor

from backends.preprocessing.pixels import Geometry, Kernel, Preprocess
from backends.preprocessing.resampling import Box, resize
from backends.runtimes.torch.resizing import make_preprocess, resize_by_torch
from backends.runtimes.torch.towers import Normalize

SIZES = [(640, 480), (480, 640), (224, 224), (1, 1), (3, 400), (401, 299), (97, 223), (1000, 50)]
KINDS: list[tuple[Any, Kernel]] = [
    (CLIPImageProcessor, "torch"),
    (CLIPImageProcessorPil, "pillow"),
    (SiglipImageProcessor, "torch"),
]


def noise(size: tuple[int, int], seed: int = 1) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize(("processor_class", "kernel"), KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_pixels_before_and_after_normalization_are_those_of_the_library(
    processor_class: Any, kernel: Kernel, size: tuple[int, int]
) -> None:
    processor, image = processor_class(), noise(size)
    expected = processor(image, return_tensors="pt", input_data_format="channels_last")
    pixels = make_preprocess(Geometry.from_processor(processor, kernel))(image)
    normalized = Normalize(processor.image_mean, processor.image_std, processor.rescale_factor)(
        torch.from_numpy(pixels[None])
    )

    assert pixels.dtype == np.uint8
    torch.testing.assert_close(normalized, expected["pixel_values"], rtol=0, atol=1e-5)


def whole(size: tuple[int, int]) -> Box:
    return Box(0, 0, *size)


@pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
def test_torchs_kernel_in_numpy_gives_torchs_pixels(resample: int) -> None:
    sizes = np.random.default_rng(resample).integers(1, 700, (60, 4)).tolist()
    sizes += [[300, 224, 224, 500], [17, 900, 900, 17], [9, 1, 7, 1], [1, 9, 1, 30]]
    apart = []
    for number, (width, height, *target) in enumerate(sizes):
        image = noise((width, height), seed=number)
        if number % 3 == 0:  # overshoots are cut at black and white
            image = image.point(lambda level: 255 * (level > 127))
        size = (target[0], target[1])
        expected = resize_by_torch(image, size, resample, whole(size)).astype(int)
        apart.append(np.abs(resize(image, size, resample, whole(size)).astype(int) - expected))
    differing = np.concatenate([one.ravel() for one in apart])

    assert differing.max() <= 1
    assert differing.mean() < 1e-4


@pytest.mark.parametrize("target", [(224, 305), (305, 224), (900, 1220)])
def test_a_part_of_a_large_image_is_scaled_as_the_whole_is(target: tuple[int, int]) -> None:
    image, box = noise((1500, 1100)), Box(20, 30, 200, 190)

    np.testing.assert_allclose(
        resize(image, target, Image.Resampling.BICUBIC, box).astype(int),
        resize_by_torch(image, target, Image.Resampling.BICUBIC, box).astype(int),
        atol=1,
    )


@pytest.mark.parametrize("size", [(1, 1990), (1990, 1), (2, 800)])
def test_a_thread_of_an_image_costs_no_more_than_what_is_kept(size: tuple[int, int]) -> None:
    """Scaled whole, an image of 1x1990 has 224x445,760 pixels: 22 s and 2.5 GB."""
    image, preprocess = (
        noise(size),
        Preprocess(Geometry.from_processor(CLIPImageProcessor(), "torch")),
    )
    tracemalloc.start()
    started_s = time.process_time()
    pixels = preprocess(image)
    seconds, (_, peak) = time.process_time() - started_s, tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert pixels.shape == (3, 224, 224)
    assert seconds < 2
    assert peak < 30e6
    torch_pixels = make_preprocess(preprocess.geometry)(image)
    np.testing.assert_allclose(pixels.astype(int), torch_pixels.astype(int), atol=1)


def test_images_of_many_sizes_cost_little_more_than_of_one() -> None:
    preprocess = Preprocess(Geometry.from_processor(CLIPImageProcessor(), "torch"))
    sides = np.random.default_rng(5).integers(400, 1000, (40, 2)).tolist()
    images = [noise((width, height)) for width, height in sides]
    preprocess(images[0])
    started_s = time.process_time()
    for image in images:
        preprocess(image)

    assert (time.process_time() - started_s) / len(images) < 0.015  # seen: 4 ms


@pytest.mark.parametrize("size", [(5, 3), (4, 4), (9, 5), (5, 9), (20, 30)])
def test_an_image_smaller_than_the_crop_gets_black_around_it(size: tuple[int, int]) -> None:
    own = {"size": {"height": size[1], "width": size[0]}, "crop_size": {"height": 8, "width": 6}}
    processor = CLIPImageProcessorPil(**own, do_normalize=True)
    image = noise(size)
    expected = processor(image, return_tensors="np", do_normalize=False, do_rescale=False)
    pixels = Preprocess(Geometry.from_processor(processor, "pillow"))(image)

    np.testing.assert_array_equal(pixels, expected["pixel_values"][0])


def test_a_processor_that_does_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="does not resize"):
        Geometry.from_processor(CLIPImageProcessor(do_resize=False), "torch")

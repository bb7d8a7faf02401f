"""Our preprocessing against the image processors of transformers, pixel for pixel."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPImageProcessorPil, SiglipImageProcessor

from inference.backends.pixels import Geometry, Kernel, Preprocess
from inference.backends.resampling import resize
from inference.backends.torch_runtime import PixelsToNumbers, preprocess_of, resize_by_torch

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
def test_pixels_and_numbers_are_those_of_the_library(
    processor_class: Any, kernel: Kernel, size: tuple[int, int]
) -> None:
    processor, image = processor_class(), noise(size)
    expected = processor(image, return_tensors="pt", input_data_format="channels_last")
    pixels = preprocess_of(Geometry.of_processor(processor, kernel))(image)
    numbers = PixelsToNumbers(processor.image_mean, processor.image_std, processor.rescale_factor)(
        torch.from_numpy(pixels[None])
    )

    assert pixels.dtype == np.uint8
    torch.testing.assert_close(numbers, expected["pixel_values"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
def test_torchs_kernel_in_numpy_gives_torchs_pixels(resample: int) -> None:
    sizes = np.random.default_rng(resample).integers(1, 700, (60, 4)).tolist()
    apart = []
    for number, (width, height, *target) in enumerate(sizes):
        image = noise((width, height), seed=number)
        if number % 3 == 0:  # overshoots are cut at black and white
            image = image.point(lambda level: 255 * (level > 127))
        size = (target[0], target[1])
        expected = resize_by_torch(image, size, resample).astype(int)
        apart.append(np.abs(resize(image, size, resample).astype(int) - expected))
    differing = np.concatenate([one.ravel() for one in apart])

    assert differing.max() <= 1
    assert differing.mean() < 1e-4


def test_a_large_image_is_scaled_in_stripes_without_a_seam() -> None:
    image = noise((1500, 1100))

    np.testing.assert_allclose(
        resize(image, (224, 305), Image.Resampling.BICUBIC).astype(int),
        resize_by_torch(image, (224, 305), Image.Resampling.BICUBIC).astype(int),
        atol=1,
    )


def test_an_image_smaller_than_the_crop_gets_black_around_it() -> None:
    geometry = Geometry("pillow", None, (3, 5), (8, 6), Image.Resampling.BICUBIC)
    pixels = Preprocess(geometry)(Image.new("RGB", (5, 3), "white"))

    assert pixels.shape == (3, 8, 6)
    assert (pixels[:, 3:6, 1:6] == 255).all() or (pixels[:, 2:5, :5] == 255).all()
    assert pixels.sum() == 255 * 3 * 15


def test_a_processor_that_does_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="does not resize"):
        Geometry.of_processor(CLIPImageProcessor(do_resize=False), "torch")

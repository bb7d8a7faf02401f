"""Our preprocessing against the image processors of transformers, pixel for pixel."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPImageProcessorPil, SiglipImageProcessor

from inference.backends.pixels import (
    PixelsToNumbers,
    Preprocess,
    Resize,
    resize_by_pillow,
    resize_by_torch,
)

SIZES = [(640, 480), (480, 640), (224, 224), (1, 1), (3, 400), (401, 299), (97, 223), (1000, 50)]
KINDS = [
    (CLIPImageProcessor, resize_by_torch),
    (CLIPImageProcessorPil, resize_by_pillow),
    (SiglipImageProcessor, resize_by_torch),
]


def noise(size: tuple[int, int]) -> Image.Image:
    values = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize(("processor_class", "resize"), KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_pixels_and_numbers_are_those_of_the_library(
    processor_class: Any, resize: Resize, size: tuple[int, int]
) -> None:
    processor, image = processor_class(), noise(size)
    expected = processor(image, return_tensors="pt", input_data_format="channels_last")
    pixels = Preprocess.of_processor(processor, resize)(image)
    numbers = PixelsToNumbers(processor.image_mean, processor.image_std, processor.rescale_factor)(
        pixels.unsqueeze(0)
    )

    assert pixels.dtype == torch.uint8
    torch.testing.assert_close(numbers, expected["pixel_values"], rtol=0, atol=1e-5)


def test_a_processor_that_does_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="does not resize"):
        Preprocess.of_processor(CLIPImageProcessor(do_resize=False), resize_by_torch)

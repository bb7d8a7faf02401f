"""From a decoded image to the 8-bit pixels of a tower's size, and on the device to its numbers.

Pixels travel as uint8, a quarter of the bytes of float32; the normalisation is the tower's first
step, on its device and for the whole batch. The results are those of the processor of the family's
own library, pixel for pixel, without its bookkeeping per call: 1.3 ms in place of 3.7 ms for a
640x480 image (tests/test_pixels.py holds both against each other).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

Resize: TypeAlias = Callable[[Image.Image, tuple[int, int], int], Tensor]  # size as (height, width)

# torch warns that an image's memory is read-only; nothing here writes to it.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")

_TORCH_MODES = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}


def to_pixels(image: Image.Image) -> Tensor:
    """Return an RGB image as a view: [3, H, W] uint8, channels last in memory."""
    return torch.from_numpy(np.asarray(image)).permute(2, 0, 1)


def resize_by_torch(image: Image.Image, size: tuple[int, int], resample: int) -> Tensor:
    """Resize as torchvision does, and so transformers' default image processors.

    Source: torchvision's `resize` hands uint8 images to this kernel as they are.
    """
    pixels = to_pixels(image)
    if pixels.shape[1:] == size:
        return pixels
    mode = _TORCH_MODES[Image.Resampling(resample)]
    return nn.functional.interpolate(pixels[None], size, mode=mode, antialias=True)[0]


def resize_by_pillow(image: Image.Image, size: tuple[int, int], resample: int) -> Tensor:
    """Resize as transformers' `...Pil` image processors do; differs by one level."""
    return to_pixels(image.resize((size[1], size[0]), Image.Resampling(resample)))


@dataclass(frozen=True)
class Preprocess:
    """Resize and centre-crop as a transformers image processor is configured to.

    Attributes:
        resize: the library that resizes; the two give slightly different pixels.
        shortest_edge_px: scale so that the shorter side has this length, or
        size_px: scale to exactly this (height, width).
        crop_px: then cut this (height, width) out of the middle.
        resample: the filter, as a number of `PIL.Image.Resampling`.
    """

    resize: Resize
    shortest_edge_px: int | None
    size_px: tuple[int, int]
    crop_px: tuple[int, int] | None
    resample: int

    @classmethod
    def of_processor(cls, processor: Any, resize: Resize) -> Preprocess:
        """Read the geometry from a transformers image processor.

        Raises:
            ValueError: the processor is configured to do something else than resize and crop.
        """
        if not (processor.do_resize and processor.do_rescale and processor.do_normalize):
            raise ValueError("its image processor does not resize, rescale and normalise")
        size, crop = processor.size, processor.crop_size
        return cls(
            resize=resize,
            shortest_edge_px=size.get("shortest_edge"),
            size_px=(size.get("height") or 0, size.get("width") or 0),
            crop_px=(crop["height"], crop["width"]) if processor.do_center_crop else None,
            resample=int(processor.resample),
        )

    @property
    def shorter_side_px(self) -> int:
        """Shorter side of a resized image."""
        return self.shortest_edge_px or min(self.size_px)

    def __call__(self, image: Image.Image) -> Tensor:
        """Convert to RGB, resize and crop: [3, H, W] uint8."""
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        pixels = self.resize(rgb, self._size_for(rgb), self.resample)
        return self._crop(pixels).contiguous()

    def _size_for(self, image: Image.Image) -> tuple[int, int]:
        if self.shortest_edge_px is None:
            return self.size_px
        short, long = sorted(image.size)
        scaled = int(self.shortest_edge_px * long / short)
        wide = image.width > image.height
        return (self.shortest_edge_px, scaled) if wide else (scaled, self.shortest_edge_px)

    def _crop(self, pixels: Tensor) -> Tensor:
        if self.crop_px is None:
            return pixels
        height, width = self.crop_px
        top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
        if top < 0 or left < 0:  # the image is smaller: black around it
            padding = (-left, width - pixels.shape[2] + left, -top, height - pixels.shape[1] + top)
            return nn.functional.pad(pixels, padding)  # of negative numbers it crops
        return pixels[:, top : top + height, left : left + width]


class PixelsToNumbers(nn.Module):
    """The first step of an image tower: [n, 3, H, W] uint8 to the same in normalised float32."""

    def __init__(
        self, mean: list[float], std: list[float], rescale_factor: float = 1 / 255
    ) -> None:
        super().__init__()
        # (pixel * rescale - mean) / std, with the rescaling folded into the constants
        self.register_buffer("_mean", torch.tensor(mean).view(-1, 1, 1) / rescale_factor)
        self.register_buffer("_std", torch.tensor(std).view(-1, 1, 1) / rescale_factor)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise a batch of pixels."""
        return (pixels.float() - self.get_buffer("_mean")) / self.get_buffer("_std")

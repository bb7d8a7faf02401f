"""From a decoded image to the 8-bit pixels of a tower's size: [3, H, W] uint8.

Pixels travel as uint8, a quarter of the bytes of float32; the normalization is the tower's first
step, on its device and for the whole batch. The results are those of the processor of the family's
own library, pixel for pixel, without its bookkeeping per call: 1.3 ms in place of 3.7 ms for a
640x480 image (tests/test_pixels.py holds both against each other).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import Image

from backends.model import EncodeParams, ModelInput, ModelOptions
from backends.preprocessing.resampling import Box, Pixels
from backends.preprocessing.resampling import resize as resize_as_torch
from backends.preprocessing.single_part import SinglePart

# An image, the (height, width) to scale to, a filter of `PIL.Image.Resampling`, the part to keep.
Resize: TypeAlias = Callable[[Image.Image, tuple[int, int], int, Box], Pixels]
Kernel: TypeAlias = Literal["pillow", "torch"]


def to_pixels(image: Image.Image) -> Pixels:
    """Return an image in RGB as a view: [3, H, W] uint8, channels last in memory."""
    return np.asarray(in_rgb(image)).transpose(2, 0, 1)


def in_rgb(image: Image.Image) -> Image.Image:
    """Return an image in RGB."""
    return image if image.mode == "RGB" else image.convert("RGB")


def resize_by_pillow(image: Image.Image, size: tuple[int, int], resample: int, box: Box) -> Pixels:
    """Resize as transformers' `...Pil` image processors do; differs from torch's kernel."""
    return cut(to_pixels(image.resize((size[1], size[0]), Image.Resampling(resample))), box)


def cut(pixels: Pixels, box: Box) -> Pixels:
    """Cut a part out."""
    return pixels[:, box.top : box.top + box.height, box.left : box.left + box.width]


KERNELS: dict[Kernel, Resize] = {"pillow": resize_by_pillow, "torch": resize_as_torch}


@dataclass(frozen=True)
class Geometry:
    """How an image gets to the size of its tower; it can be written as JSON.

    Attributes:
        kernel: whose arithmetic resizes; it is part of a family's vectors.
        shortest_edge_px: scale so that the shorter side has this length, or
        size_px: scale to exactly this (height, width).
        crop_px: then cut this (height, width) out of the middle.
        resample: the filter, as a number of `PIL.Image.Resampling`.
        as_torchvision: resize the image in its own mode and convert to RGB then, and round the
            crop's place to even, as the transforms of torchvision do; transformers converts first
            and rounds down.
    """

    kernel: Kernel
    shortest_edge_px: int | None
    size_px: tuple[int, int]
    crop_px: tuple[int, int] | None
    resample: int
    as_torchvision: bool = False

    @classmethod
    def of_processor(cls, processor: Any, kernel: Kernel) -> Geometry:
        """Read it from a transformers image processor.

        Raises:
            ValueError: the processor is configured to do something other than resize and crop.
        """
        if not (processor.do_resize and processor.do_rescale and processor.do_normalize):
            raise ValueError("its image processor does not resize, rescale and normalize")
        size, crop = processor.size, processor.crop_size
        return cls(
            kernel=kernel,
            shortest_edge_px=size.get("shortest_edge"),
            size_px=(size.get("height") or 0, size.get("width") or 0),
            crop_px=(crop["height"], crop["width"]) if processor.do_center_crop else None,
            resample=int(processor.resample),
        )

    @classmethod
    def of_json(cls, described: Mapping[str, Any]) -> Geometry:
        """Read what `as_json` described."""
        pairs = {name: tuple(described[name]) for name in ("size_px", "crop_px") if described[name]}
        return cls(**{**described, **pairs})

    def as_json(self) -> dict[str, object]:
        """Describe it in JSON's types."""
        return asdict(self)

    @property
    def shorter_side_px(self) -> int:
        """Shorter side of a resized image."""
        return self.shortest_edge_px or min(self.size_px)

    def size_for(self, image: Image.Image) -> tuple[int, int]:
        """Return the (height, width) that an image is scaled to."""
        if self.shortest_edge_px is None:
            return self.size_px
        short, long = sorted(image.size)
        scaled = int(self.shortest_edge_px * long / short)
        wide = image.width > image.height
        return (self.shortest_edge_px, scaled) if wide else (scaled, self.shortest_edge_px)

    def box(self, size: tuple[int, int]) -> Box:
        """Return the part of an image, scaled to (height, width), that is kept."""
        if self.crop_px is None:
            return Box(0, 0, *size)
        (top, height), (left, width) = map(self._middle, size, self.crop_px)
        return Box(top, left, height, width)

    def _middle(self, side: int, crop: int) -> tuple[int, int]:
        excess = max(side - crop, 0)
        start = round(excess / 2) if self.as_torchvision else excess // 2
        return start, min(side, crop)

    def padded(self, pixels: Pixels) -> Pixels:
        """Put black around an image that is smaller than the crop."""
        missing = [
            crop - side for crop, side in zip(self.crop_px or (), pixels.shape[1:], strict=False)
        ]
        if not any(missing):
            return pixels
        # The larger half comes first, as in the image processors of transformers.
        return np.pad(pixels, [(0, 0), *((-(-one // 2), one // 2) for one in missing)])


class Preprocess:
    """Resizes and crops.

    Args:
        geometry: what is to be done.
        resize: another implementation of the geometry's kernel.
    """

    def __init__(self, geometry: Geometry, resize: Resize | None = None) -> None:
        self.geometry = geometry
        self._resize = resize or KERNELS[geometry.kernel]

    def __call__(self, image: Image.Image) -> Pixels:
        """Bring a decoded image to the size of the tower: [3, H, W] uint8."""
        geometry = self.geometry
        image = image if geometry.as_torchvision else in_rgb(image)
        size = geometry.size_for(image)
        pixels = self._resize(image, size, geometry.resample, geometry.box(size))
        return np.ascontiguousarray(geometry.padded(pixels))


class PixelProcessor(SinglePart):
    """Scales images to the size of the tower: all cost the same, and share passes.

    Args:
        preprocess: brings a decoded image to [3, H, W] uint8.
    """

    def __init__(self, preprocess: Callable[[Image.Image], Pixels]) -> None:
        self._preprocess = preprocess

    def estimate(self, _content: bytes) -> int:
        """Count an image."""
        return 1

    def prepare(self, image: Image.Image, _params: EncodeParams) -> ModelInput:
        """Return pixels [3, H, W] uint8 of a decoded image."""
        pixels = self._preprocess(image)
        return ModelInput((pixels,), bucket=pixels.shape, cost=1)


def read(_folder: Path, described: Mapping[str, Any], _options: ModelOptions) -> PixelProcessor:
    """Make the preparation that a converted model describes."""
    return PixelProcessor(Preprocess(Geometry.of_json(described)))

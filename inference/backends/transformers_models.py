"""What the families that transformers implements have in common: loading, quietly and from disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from inference.backends.pixels import PixelsToNumbers
from inference.backends.two_towers import checked_device

transformers.logging.set_verbosity_error()  # its advice is for people who train
transformers.utils.logging.disable_progress_bar()


def read_config(folder: Path) -> dict[str, Any]:
    """Read a `config.json`."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def place(model: nn.Module, device: str) -> nn.Module:
    """Make a model ready for inference in float32 on its device."""
    return model.eval().requires_grad_(requires_grad=False).to(checked_device(device))


def image_tower(
    model: Any,
    processor: Any,
    finish: Callable[[Tensor], Tensor],
) -> nn.Module:
    """Build the image tower: [n, 3, H, W] uint8 -> [n, dim]."""
    numbers = PixelsToNumbers(processor.image_mean, processor.image_std, processor.rescale_factor)
    return _ImageTower(numbers, model, finish).to(model.device)


class _ImageTower(nn.Module):
    def __init__(
        self,
        numbers: nn.Module,
        model: Any,
        finish: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.numbers, self.model, self.finish = numbers, model, finish

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.model.get_image_features(pixel_values=self.numbers(pixels))
        return self.finish(features.pooler_output)


def full_config(model: Any) -> Mapping[str, object]:
    """Return a model's whole configuration, defaults included, in JSON's types."""
    config: dict[str, object] = json.loads(model.config.to_json_string(use_diff=False))
    return config


def load_options() -> dict[str, Any]:
    """Options of every `from_pretrained` of a model."""
    return {"dtype": torch.float32, "local_files_only": True}

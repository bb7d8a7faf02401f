"""Evaluates the demo model on held-out captions and images: `python -m demo.evaluate`.

It loads the model from its folder, as the service does.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sentence_transformers import SentenceTransformer

from demo.captions import full_caption
from demo.drawing import compressed, draw_scene
from demo.layout import MODELS
from demo.scenes import Scene, encode, fits, held_out_scenes

GALLERY_SIZE = 100
GALLERIES = 5
_SIDES_PX = (96, 640)
_SQUARE = 0.7  # share of square images; others have aspect ratios up to 2


@dataclass(frozen=True)
class Gallery:
    """Images of held-out scenes, each with a caption that is true of no other image."""

    captions: list[str]
    images: list[Image.Image]


@dataclass(frozen=True)
class Recall:
    """Recall@1: the share of queries that rank their own partner first."""

    of_images: float  # caption -> image
    of_captions: float  # image -> caption


def make_gallery(seed: int, size: int = GALLERY_SIZE) -> Gallery:
    """Draw a gallery of held-out scenes.

    Scenes are random; a scene is skipped if its caption is true of an earlier image, or an earlier
    caption is true of it. Captions are full captions in random wording.
    """
    rng = random.Random(seed)
    scenes: list[Scene] = []
    captions: list[str] = []
    claims: list[Scene] = []
    for scene in held_out_scenes(rng):
        caption = full_caption(scene, rng)
        true = fits(encode([*claims, caption.claims]), encode([*scenes, scene]))
        if true.sum() == len(true):
            scenes, captions, claims = (
                [*scenes, scene],
                [*captions, caption.text],
                [*claims, caption.claims],
            )
        if len(scenes) == size:
            break
    return Gallery(captions, [_draw_in_any_shape(scene, rng) for scene in scenes])


def _draw_in_any_shape(scene: Scene, rng: random.Random) -> Image.Image:
    side = rng.randint(*_SIDES_PX)
    longer = side if rng.random() < _SQUARE else rng.randint(side, min(2 * side, _SIDES_PX[1]))
    drawn = draw_scene(scene, rng, rng.choice(((side, longer), (longer, side))))
    return compressed(drawn, rng.randint(40, 95)) if rng.random() < 0.5 else drawn


def load(folder: Path = MODELS / "clip") -> Any:
    """Load the model as sentence-transformers does."""
    return SentenceTransformer(str(folder), device="cpu")


def cosines(model: Any, captions: list[str], images: list[Image.Image]) -> NDArray[np.float32]:
    """Return the cosine of every caption (rows) with every image."""
    options = {"normalize_embeddings": True, "show_progress_bar": False}
    similar: NDArray[np.float32] = (
        model.encode(captions, **options) @ model.encode(images, **options).T
    )
    return similar


def recall(model: Any, gallery: Gallery) -> Recall:
    """Return the recall in a gallery."""
    similar = cosines(model, gallery.captions, gallery.images)
    own = np.arange(len(similar))
    firsts = [float((similar.argmax(axis=axis) == own).mean()) for axis in (1, 0)]
    return Recall(*firsts)


def main() -> None:
    """Print the recall in several galleries."""
    model = load()
    for seed in range(GALLERIES):
        print(recall(model, make_gallery(seed)))


if __name__ == "__main__":
    main()

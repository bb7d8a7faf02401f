"""Draws the training images once, on all cores, at the model's size.

It does not know the model.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo.drawing import Thing, arrange, compressed, draw
from demo.scenes import Scene, training_scenes

SIDE_PX = 72
PATCH_PX = 12
GRID = SIDE_PX // PATCH_PX
NOBODY = -1
_CHUNK = 2000


@dataclass(frozen=True)
class Pool:
    """Scenes with their images, in groups of four that differ in one attribute."""

    scenes: list[Scene]
    pixels: NDArray[np.uint8]  # [n, 3, SIDE_PX, SIDE_PX]
    owners: NDArray[np.int8]  # [n, GRID * GRID]: index of the group in each patch, or NOBODY


def draw_pool(size: int, workers: int) -> Pool:
    """Draw `size` training scenes, deterministically."""
    with ProcessPoolExecutor(workers) as executor:
        parts = list(executor.map(_draw_chunk, range(size // _CHUNK)))
    scenes = [scene for part in parts for scene in part.scenes]
    return Pool(
        scenes, *(np.concatenate(arrays) for arrays in zip(*map(_arrays, parts), strict=True))
    )


def _arrays(pool: Pool) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    return pool.pixels, pool.owners


def _draw_chunk(seed: int) -> Pool:
    rng = random.Random(seed)
    scenes = list(itertools.islice(training_scenes(rng), _CHUNK))
    arranged = [arrange(scene, rng) for scene in scenes]
    pixels = [_pixels(scene, things, rng) for scene, things in zip(scenes, arranged, strict=True)]
    return Pool(scenes, np.stack(pixels), np.stack([_owners(things) for things in arranged]))


def _pixels(scene: Scene, things: Sequence[Thing], rng: random.Random) -> NDArray[np.uint8]:
    """Draw a scene at a random size, sometimes as JPEG, and resize it as the model does."""
    side = rng.choice((96, 112, 128, 144, 160, 192, 224, 320))
    image = draw(scene, things, (side, side), rng)
    if rng.random() < 0.4:
        image = compressed(image, rng.randint(40, 95))
    small = image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    return np.asarray(small).transpose(2, 0, 1)


def _owners(things: Sequence[Thing]) -> NDArray[np.int8]:
    """Return for each patch the group whose thing is centred there, or covers its centre."""
    middles = (np.arange(GRID) + 0.5) / GRID
    owners = np.full((GRID, GRID), NOBODY, dtype=np.int8)
    for thing in things:
        reach = max(thing.radius, 0.5 / GRID)
        near = np.hypot(middles[None] - thing.x, middles[:, None] - thing.y) <= reach
        owners[near] = thing.group
    return owners.ravel()

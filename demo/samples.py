"""Writes held-out images with captions for the debug page: `python -m demo.samples`."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

from PIL import Image

from demo.captions import full_caption
from demo.drawing import draw_scene
from demo.scenes import held_out_scenes

SAMPLES = Path(__file__).parent / "samples"
COUNT = 8
SIDE_PX = 192
SEED = 3


def write_samples(folder: Path = SAMPLES) -> None:
    """Draw the samples and write them with samples.json: [{"file": ..., "caption": ...}]."""
    rng = random.Random(SEED)
    folder.mkdir(exist_ok=True)
    entries = []
    for number, scene in enumerate(itertools.islice(held_out_scenes(rng), COUNT), start=1):
        file = f"{number}.png"
        draw_scene(scene, rng, (SIDE_PX, SIDE_PX)).save(folder / file, optimize=True)
        entries.append({"file": file, "caption": full_caption(scene, rng).text})
    (folder / "samples.json").write_text(json.dumps(entries, indent=2) + "\n")


def read_samples(folder: Path = SAMPLES) -> tuple[list[str], list[Image.Image]]:
    """Return the captions and the images."""
    entries = json.loads((folder / "samples.json").read_text())
    images = [Image.open(folder / entry["file"]).convert("RGB") for entry in entries]
    return [entry["caption"] for entry in entries], images


if __name__ == "__main__":
    write_samples()

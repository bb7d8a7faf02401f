"""The demo model relates texts to images that it has never seen together."""

import itertools
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.conversion.conversion_cache import converted
from backends.conversion.description import Description
from backends.conversion.parity_check import compare
from backends.embed import embed
from backends.folder import detect
from backends.model import Modality, ModelOptions
from backends.runtimes.openvino.runtime import load_converted
from demo import evaluate
from demo.captions import full_caption, partial_caption
from demo.convert import SHIPPED, convert
from demo.drawing import draw_scene
from demo.layout import MODELS
from demo.samples import read_samples
from demo.scenes import Group, Scene, encode, fits, held_out, held_out_scenes, training_scenes

REQUIRED_RECALL = 0.95

# What a person might type, and the scene that it should find among all these.
TYPED: list[tuple[str, Group]] = [
    ("a red circle", Group(1, "big", "red", "circle", "middle", "middle")),
    ("Three small blue squares on the left", Group(3, "small", "blue", "square", "left", "")),
    ("PHOTO OF A GREEN HEART", Group(1, "big", "green", "heart", "left", "middle")),
    ("two pink circles", Group(2, "big", "pink", "circle")),
    ("picture of tiny black star, top right", Group(1, "small", "black", "star", "right", "top")),
    ("four orange crosses!", Group(4, "small", "orange", "cross")),
    ("something purple in the bottom left corner",
     Group(1, "big", "purple", "triangle", "left", "bottom")),
    ("large yellow diamond", Group(1, "big", "yellow", "diamond", "right", "middle")),
    ("a small yellow diamond", Group(1, "small", "yellow", "diamond", "middle", "top")),
    ("Some red rings.", Group(3, "small", "red", "ring", "", "bottom")),
]  # fmt: skip
TYPED_PAIRS: list[tuple[str, Group, Group]] = [
    ("a big green star above a yellow triangle",
     Group(1, "big", "green", "star", row="top"),
     Group(1, "big", "yellow", "triangle", row="bottom")),
    ("a big green star below a yellow triangle",
     Group(1, "big", "yellow", "triangle", row="top"),
     Group(1, "big", "green", "star", row="bottom")),
    ("blue heart left of orange box",
     Group(1, "big", "blue", "heart", column="left"),
     Group(1, "small", "orange", "square", column="right")),
    ("an orange square to the left of a little blue heart",
     Group(1, "small", "orange", "square", column="left"),
     Group(1, "small", "blue", "heart", column="right")),
]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Any:
    return evaluate.load()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_captions_and_images_of_held_out_scenes_find_each_other_among_100(
    model: Any, seed: int
) -> None:
    """Full captions of random distinct held-out scenes, each true of its own image alone.

    A scene is left out of a gallery only if its caption would be true of another image there, or
    another's caption of its own (see `evaluate.make_gallery`); nothing is chosen to be easy.
    """
    recall = evaluate.recall(model, evaluate.make_gallery(seed, size=100))
    assert recall.of_images >= REQUIRED_RECALL
    assert recall.of_captions >= REQUIRED_RECALL


def test_training_never_sees_a_held_out_composition() -> None:
    scenes = list(itertools.islice(training_scenes(random.Random(5)), 5000))
    assert not any(map(held_out, scenes))
    kinds = {group.kind for scene in scenes for group in scene.groups}
    assert len(kinds) == 64 - 8
    assert "orange heart" not in kinds


def test_captions_are_true_of_their_own_scene() -> None:
    rng = random.Random(6)
    scenes = list(itertools.islice(held_out_scenes(rng), 500))
    for caption in (full_caption, partial_caption):
        said = encode([caption(scene, rng).claims for scene in scenes])
        assert fits(said, encode(scenes)).diagonal().all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("pairs", [TYPED_PAIRS[::2], TYPED_PAIRS[1::2]])
def test_typed_captions_find_their_image(
    model: Any, seed: int, pairs: list[tuple[str, Group, Group]]
) -> None:
    """All images stand together, but for mirrored pairs: those are what the model mixes up.

    demo/README.md says how often.
    """
    rng = random.Random(seed)
    backgrounds = itertools.cycle(["white", "grey", ""])
    texts = [case[0] for case in TYPED] + [case[0] for case in pairs]
    groups = [case[1:] for case in TYPED] + [case[1:] for case in pairs]
    scenes = [Scene(things, next(backgrounds)) for things in groups]
    cosines = evaluate.cosines(model, texts, [draw_scene(scene, rng) for scene in scenes])
    missed = [text for at, text in enumerate(texts) if cosines[at].argmax() != at]
    assert not missed


def test_samples_find_each_other(model: Any) -> None:
    captions, images = read_samples()
    cosines = evaluate.cosines(model, captions, images)
    assert (
        list(cosines.argmax(axis=0)) == list(cosines.argmax(axis=1)) == list(range(len(captions)))
    )


def test_the_model_folder_has_the_layout_of_sentence_transformers() -> None:
    assert os.readlink(MODELS / "text") == "clip"
    assert (MODELS / "trust_remote_code").read_text() == "False"
    assert json.loads((MODELS / "demo.json").read_text())["demo"] is True
    files = {path.name for path in (MODELS / "clip").iterdir()}
    assert files >= {
        "config.json", "model.safetensors", "modules.json", "preprocessor_config.json",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert (MODELS / "clip" / "model.safetensors").stat().st_size <= 6_000_000


def test_a_text_longer_than_the_model_reads_is_cut(model: Any) -> None:
    vector = model.encode("a red circle " * 200, show_progress_bar=False)
    assert np.isfinite(vector).all()


@pytest.mark.usefixtures("converting_here")
def test_what_is_shipped_is_the_model_converted(tmp_path: Path) -> None:
    """`make run` serves it without torch; `make demo-converted` makes it again."""
    convert(tmp_path / "anew")
    captions, images = read_samples()
    shipped, anew = (load_converted(path, ModelOptions()) for path in (SHIPPED, tmp_path / "anew"))

    assert Description.read(SHIPPED) == Description.read(tmp_path / "anew")
    samples: dict[Modality, Sequence[Any]] = {"text": captions, "image": images}
    for modality, contents in samples.items():
        compare(modality, *(embed(model.towers[modality], contents) for model in (shipped, anew)))
    names = {path.name for path in (tmp_path / "anew").iterdir()}
    assert names == {path.name for path in SHIPPED.iterdir()}


def test_a_start_takes_what_is_shipped_for_the_model() -> None:
    """By its content: the times of its files are those of a clone."""
    assert converted(detect(MODELS), ModelOptions(runtime="openvino")) == SHIPPED

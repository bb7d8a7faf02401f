"""OpenCLIP's architectures of the catalogue, each tiny and random, beside open_clip itself."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from open_clip import factory
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file
from timm.models.vitamin import VitCfg, VitConvCfg

from backends.check import faults
from backends.embed import embed
from backends.folder import detect, find_weights
from backends.hub_cache import hub_snapshots
from backends.model import Model, ModelOptions
from backends.replicas import load_replica
from config import DownloadSettings
from download import settings_for_tag
from fetch import catalogue
from fetch.hub import Choose, Hub, Snapshot, Wanted
from fetch.plan import fetch_model, plan
from tests.golden_cases import Case, assert_same

ADDED = [
    model
    for model in catalogue.load().values()
    if model.family == "OpenCLIP" and "laion" not in model.tag
]
TEXTS = ["a cat", "A photo of 2 DOGS, on a mat", "a word and " * 60, ""]
SIDE_PX, WIDTH, DIMENSIONS = 64, 32, 16
_SMALL = {"img_size": SIDE_PX, "embed_dim": WIDTH, "depth": 1, "num_heads": 2}


@dataclass(frozen=True)
class Tower:
    """An architecture, by a model that has it, and what makes it tiny.

    Attributes:
        name: open_clip's.
        pretrained: a tag of its weights, which says how pictures are prepared.
        network: arguments of its timm model.
        vision: entries of its `vision_cfg`, where open_clip has the network itself.
    """

    name: str
    pretrained: str
    network: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)


_VITAMIN = VitCfg(
    embed_dim=(16, 16, WIDTH),
    depths=(1, 1, 1),
    stem_width=16,
    conv_cfg=VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6),
    head_type="1d",
)
_FASTVIT = {"layers": (1, 1, 1, 1), "embed_dims": (16, 16, 32, 32)}
_VIT = {"layers": 1, "width": WIDTH, "head_width": 16}
TOWERS = [
    Tower("PE-Core-T-16-384", "meta", {**_SMALL, "attn_pool_num_heads": 2}),
    Tower("EVA02-B-16", "merged2b_s8b_b131k", _SMALL),
    Tower("ViTamin-S", "datacomp1b", {**_SMALL, "embed_cfg": _VITAMIN}),
    Tower("MobileCLIP2-S0", "dfndr2b", _FASTVIT),
    Tower("MobileCLIP2-B", "dfndr2b", {"img_size": SIDE_PX, "depth": 1}),
    Tower("ViT-B-16-quickgelu", "dfn2b", vision=_VIT),
]


def architecture_of(tower: Tower) -> dict[str, Any]:
    """open_clip's own configuration with nothing changed but sizes."""
    config: dict[str, Any] = open_clip.get_model_config(tower.name)
    config["embed_dim"] = DIMENSIONS
    config["vision_cfg"] |= {"image_size": SIDE_PX, **tower.vision}
    config["text_cfg"] |= {"width": WIDTH, "heads": 2, "layers": 1}
    return config


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(1)
    noise = random.integers(0, 256, (90, 120, 3), dtype=np.uint8)
    return [Image.fromarray(noise), Image.fromarray(noise).resize((50, 80)).convert("L")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders as download.py leaves them, and what the library computes; each made once."""

    @lru_cache
    def make(number: int) -> tuple[Path, np.ndarray, np.ndarray]:
        tower, root = TOWERS[number], tmp_path_factory.mktemp("openclip")
        folder = root / "openclip"
        folder.mkdir()
        torch.manual_seed(number)
        config = architecture_of(tower)
        factory._MODEL_CONFIGS["tiny"] = config
        settings_for_tag = open_clip.get_pretrained_cfg(tower.name, tower.pretrained)
        known = set(vars(PreprocessCfg()))
        prepared = {key: value for key, value in settings_for_tag.items() if key in known}
        model = open_clip.create_model("tiny", force_preprocess_cfg=prepared).eval()
        weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, folder / "open_clip_model.safetensors")
        names = {"model_name": tower.name, "pretrained": tower.pretrained, "model_config": config}
        (folder / "config.json").write_text(json.dumps(names))
        transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
        images = torch.stack([transform(picture) for picture in pictures()])
        ids = open_clip.get_tokenizer(tower.name)(TEXTS)
        with torch.inference_mode():
            texts = model.encode_text(ids, normalize=True).numpy()
            return root, texts, model.encode_image(images, normalize=True).numpy()

    return make


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, converting_here: None) -> None:
    real = timm.create_model
    networks = {
        open_clip.get_model_config(tower.name)["vision_cfg"]["timm_model_name"]: tower.network
        for tower in TOWERS
        if tower.network
    }
    monkeypatch.setattr(
        timm, "create_model", lambda name, **given: real(name, **{**given, **networks[name]})
    )


@pytest.mark.parametrize("number", range(len(TOWERS)), ids=[tower.name for tower in TOWERS])
def test_a_look_without_a_library_finds_no_fault(
    number: int, made: Callable[[int], tuple[Path, np.ndarray, np.ndarray]]
) -> None:
    assert faults(detect(made(number)[0])) == []


@pytest.mark.parametrize("number", range(len(TOWERS)), ids=[tower.name for tower in TOWERS])
def test_it_is_converted_and_has_the_vectors_of_open_clip(
    number: int, made: Callable[[int], tuple[Path, np.ndarray, np.ndarray]]
) -> None:
    """So has torch, as the parity check compares the two."""
    root, texts, images = made(number)
    model: Model = load_replica(detect(root), ModelOptions(runtime="openvino"))

    assert (model.info.runtime, model.info.dimensions) == ("openvino", DIMENSIONS)
    for text, vector in zip(TEXTS, texts, strict=True):
        assert_same(embed(model.towers["text"], [text])[0], Case(text, vector))
    for picture, vector in zip(pictures(), images, strict=True):
        assert_same(embed(model.towers["image"], [picture])[0], Case("", vector))


def test_weights_of_another_activation_than_the_architectures_are_told(
    made: Callable[[int], tuple[Path, np.ndarray, np.ndarray]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    number = [tower.name for tower in TOWERS].index("ViT-B-16-quickgelu")
    source = made(number)[0] / "openclip"
    folder = tmp_path / "openclip"
    folder.mkdir()
    (folder / "open_clip_model.safetensors").symlink_to(source / "open_clip_model.safetensors")
    described = json.loads((source / "config.json").read_text())
    described["model_config"].pop("quick_gelu")
    told = []
    for name, config in (("ViT-B-16", described["model_config"]), (TOWERS[number].name, None)):
        named = {**described, "model_name": name}
        named["model_config"] = (
            config or json.loads((source / "config.json").read_text())["model_config"]
        )
        (folder / "config.json").write_text(json.dumps(named))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            load_replica(detect(tmp_path), ModelOptions())
        told.append("Take ViT-B-16-quickgelu in its place" in caplog.text)

    assert told == [True, False]


# What download.py fetches for them.


class ListedHub(Hub):
    """A hub that has two pickles and two safetensors files of every model, all of them empty."""

    asked: str = ""

    def fetch(self, wanted: Wanted, choose: Choose) -> Snapshot:
        names = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
        chosen = choose(["README.md", "model.safetensors", "pytorch_model.bin", *names])
        snapshot = self.cache / wanted.name
        snapshot.mkdir(parents=True)
        for name in chosen:
            (snapshot / name).touch()
        self.asked = f"{wanted.name}/{','.join(chosen)}"
        return Snapshot(wanted.name, "abc", snapshot)


@pytest.mark.parametrize("model", ADDED, ids=lambda model: model.tag)
def test_its_checkpoint_is_fetched_into_a_folder_that_names_it(
    model: catalogue.Model, tmp_path: Path
) -> None:
    settings = settings_for_tag(DownloadSettings(), model.tag)
    hub, root = ListedHub(tmp_path / "hub"), tmp_path / "models"
    (root / "openclip").mkdir(parents=True)
    fetch_model(plan(settings), hub, root, trust=False)

    named = open_clip.get_pretrained_cfg(*model.variables.values())["hf_hub"]
    is_vitamin = named.endswith("/pytorch_model.bin")
    file = "open_clip_model.safetensors"
    assert hub.asked == (named if is_vitamin else f"{named}{file}")
    described = json.loads((root / "openclip/config.json").read_text())
    assert described["model_config"] == open_clip.get_model_config(described["model_name"])
    assert find_weights(*hub_snapshots(root / "openclip"))


def test_their_tokenizer_is_the_one_that_the_library_carries() -> None:
    for model in ADDED:
        name = model.variables["OPEN_CLIP_MODEL_NAME"]
        assert type(open_clip.get_tokenizer(name)) is SimpleTokenizer, name

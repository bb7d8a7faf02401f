"""What is loaded, and what is not."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import MetaClip2Config, MetaClip2Model

from inference.backends import load_backend, transformers_models
from inference.backends.base import BackendOptions, TextMode
from inference.backends.sentence_transformer import same_content
from inference.backends.two_towers import TwoTowerBackend
from inference.errors import BackendError, ModelFolderError
from inference.model_folder import detect
from tests.golden_cases import GOLDEN, MODES, assert_same, golden_backend, text_cases
from tests.service import ROOT


def test_equal_folders_are_loaded_once() -> None:
    shared = golden_backend("sentence_transformers", "trained").info.parameters

    assert shared == golden_backend("openai", "trained").info.parameters  # one CLIP of this size


def test_a_clip_beside_a_text_model_drops_its_own_text_tower() -> None:
    backend = load_backend(detect(GOLDEN / "sentence_transformers_multilingual"), BackendOptions())
    clip = golden_backend("sentence_transformers", "trained").info.parameters
    text_only = 62_208 + 32 * 48  # the DistilBERT and its dense layer

    assert text_only < backend.info.parameters < clip + text_only - 40_000


def test_folders_that_differ_in_one_byte_are_not_the_same(tmp_path: Path) -> None:
    clip, text = (tmp_path / name for name in ("clip", "text"))
    for folder in (clip, text):
        shutil.copytree(GOLDEN / "sentence_transformers/clip", folder)
    assert same_content(clip, text)

    weights = bytearray((text / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (text / "model.safetensors").write_bytes(weights)
    assert not same_content(clip, text)


@pytest.mark.parametrize("mode", MODES)
def test_metaclip2_saved_by_its_own_class_gives_the_same_vectors(
    tmp_path: Path, mode: TextMode
) -> None:
    shutil.copytree(GOLDEN / "metaclip2", tmp_path / "models")
    path = tmp_path / "models/openai_clip"
    config = transformers_models.read_config(path)
    config["model_type"] = "metaclip_2"
    MetaClip2Model.from_pretrained(path, config=MetaClip2Config.from_dict(config)).save_pretrained(
        path
    )
    backend = load_backend(detect(tmp_path / "models"), BackendOptions(text_mode=mode))

    assert transformers_models.read_config(path)["model_type"] == "metaclip_2"
    for case in text_cases("metaclip2", mode):
        assert_same(backend.encode_text([case.content])[0], case)


def test_naflex_is_recognised_and_refused(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "siglip", tmp_path / "models")
    config = tmp_path / "models/siglip/config.json"
    config.write_text(config.read_text().replace('"siglip",\n  "text', '"siglip2",\n  "text'))

    with pytest.raises(ModelFolderError, match=r"of type siglip2.* NaFlex"):
        load_backend(detect(tmp_path / "models"), BackendOptions())


def test_numbers_that_are_not_finite_are_an_error_and_no_vector() -> None:
    info = golden_backend("openai", "trained").info
    broken = TwoTowerBackend(
        info,
        preprocess=lambda _: torch.zeros(3, 2, 2, dtype=torch.uint8),
        image_tower=lambda pixels: pixels.float().mean(dim=(2, 3)) / 0,
        text_tower=lambda texts: torch.ones(len(texts), 3),
    )

    assert np.isfinite(broken.encode_text(["a"])).all()
    with pytest.raises(BackendError, match="not finite"):
        broken.encode_image([torch.zeros(3, 2, 2, dtype=torch.uint8)])


@pytest.mark.parametrize(
    ("layout", "foreign"),
    [
        ("openai", {"open_clip", "sentence_transformers"}),
        ("siglip", {"open_clip", "sentence_transformers"}),
        ("sentence_transformers", {"open_clip"}),
        ("openclip", {"sentence_transformers"}),
    ],
)
def test_only_the_libraries_of_the_family_are_imported(layout: str, foreign: set[str]) -> None:
    program = (
        "import sys, config; config.forbid_hub_access()\n"
        "from tests.golden_cases import golden_backend\n"
        f"golden_backend({layout!r}, 'trained')\n"
        f"print(sorted({foreign!r} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert answer.stdout.strip() == "[]"

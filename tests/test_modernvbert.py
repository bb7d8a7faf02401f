"""ModernVBERT's folders: colpali-engine's form and transformers' own, with and without configs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import ModernVBertForMaskedLM, ModernVBertModel, SiglipVisionConfig

from backends.families import modernvbert
from backends.folder import detect
from backends.hub_cache import hub_snapshot
from backends.model import ModelOptions
from backends.replicas import load_replica
from errors import ModelFolderError
from tests.golden_cases import (
    GOLDEN,
    assert_same,
    embed_texts,
    golden_model,
    recorded,
    text_cases,
)

NAME = "ModernVBERT/modernvbert-embed"
TEXT, VISION = "jhu-clsp/ettin-encoder-150m", "google/siglip2-base-patch16-512"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "modernvbert", tmp_path / "models"))


def snapshot_in(root: Path, name: str = NAME) -> Path:
    path = hub_snapshot(root / "colpali_engine_model", name)
    assert path
    return path


def assert_golden_texts(root: Path) -> None:
    model = load_replica(detect(root), ModelOptions())
    for case in text_cases("modernvbert", "trained"):
        assert_same(embed_texts(model, [case.content])[0], case)


def as_a_model(model: Any) -> Any:
    return model


def with_a_language_head(model: Any) -> Any:
    whole = ModernVBertForMaskedLM(model.config)
    whole.model = model
    return whole


@pytest.mark.parametrize("form", [as_a_model, with_a_language_head])
def test_transformers_own_form_gives_the_same_vectors_and_needs_no_other_config(
    root: Path, form: Callable[[Any], Any]
) -> None:
    model = modernvbert._load_model(detect(root))
    for name in (NAME, TEXT, VISION):
        shutil.rmtree(snapshot_in(root, name))
    native = root / f"colpali_engine_model/models--{NAME.replace('/', '--')}/snapshots/native"
    form(model).save_pretrained(native)

    assert_golden_texts(root)


def test_weights_in_a_pickle_are_read(root: Path) -> None:
    safe = snapshot_in(root) / "model.safetensors"
    torch.save(load_file(safe), snapshot_in(root) / "pytorch_model.bin")
    safe.unlink()

    assert_golden_texts(root)


def test_the_vision_config_that_the_reference_looks_up_is_known(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(snapshot_in(root, VISION))
    cache = root / "colpali_engine_model"
    known = modernvbert._vision_config(cache, VISION)
    expected = SiglipVisionConfig(image_size=512).to_dict()

    assert known == expected
    assert (known["hidden_size"], known["num_hidden_layers"], known["patch_size"]) == (768, 12, 16)


@pytest.mark.parametrize("name", [TEXT, VISION])
def test_a_config_that_is_missing_ends_with_the_line_that_fetches_it(root: Path, name: str) -> None:
    shutil.rmtree(snapshot_in(root, name))
    path = snapshot_in(root) / "config.json"
    path.write_text(path.read_text().replace(VISION, "org/another-tower"))

    with pytest.raises(ModelFolderError, match=r"hf download \S+ config.json --cache-dir \S+$"):
        load_replica(detect(root), ModelOptions())


def test_weights_that_do_not_fit_are_named(root: Path) -> None:
    path = snapshot_in(root, TEXT) / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "num_hidden_layers": 5}))

    with pytest.raises(ModelFolderError, match=r"do not fit: text_model\.layers\.4\."):
        load_replica(detect(root), ModelOptions())


def test_another_model_of_colpali_engine_is_refused(root: Path) -> None:
    path = snapshot_in(root) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "colqwen"}))

    with pytest.raises(ModelFolderError, match="of type colqwen, where one of type modernvbert is"):
        load_replica(detect(root), ModelOptions())


def test_a_cache_without_the_named_model_is_reported(root: Path) -> None:
    (root / "model_name").write_text("org/another")

    with pytest.raises(ModelFolderError, match="holds no files of org/another"):
        load_replica(detect(root), ModelOptions())


def test_meta_shows_what_the_reference_shows(root: Path) -> None:
    assert golden_model("modernvbert", "trained").info.config == recorded("modernvbert")["meta"]


def test_a_folder_without_the_references_notes_shows_the_models_config(root: Path) -> None:
    (root / "colpali_engine_model/config.json").unlink()
    shown = load_replica(detect(root), ModelOptions()).info.config

    assert shown == json.loads((snapshot_in(root) / "config.json").read_text())


def test_native_weights_have_the_names_that_the_old_ones_get(root: Path) -> None:
    model = modernvbert._load_model(detect(root))
    assert isinstance(model, ModernVBertModel)
    weights = modernvbert._renamed(load_file(snapshot_in(root) / "model.safetensors"))

    assert set(weights) == set(model.state_dict())

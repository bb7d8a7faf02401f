"""OpenCLIP folders beyond the golden one: hub caches, own architectures, foreign text towers."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip import factory
from safetensors.torch import save_file

from backends.embed import embed_all
from backends.folder import detect
from backends.model import Model, ModelOptions
from backends.replicas import load_replica
from errors import ModelFolderError
from tests.golden_cases import GOLDEN, assert_same, embed_texts, text_cases
from tests.hub_models import make_tower

TEXTS = ["a cat", "a much longer text about a cat that sat on a mat", ""]
TOWER = "org/xlm-tiny"
ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {
        "hf_model_name": TOWER,
        "hf_tokenizer_name": TOWER,
        "hf_pooler_type": "mean_pooler",
        "hf_proj_type": "mlp",
    },
}


def load(root: Path) -> Model:
    return load_replica(detect(root), ModelOptions())


def golden_copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "openclip/openclip", tmp_path / "openclip"))


def assert_golden(model: Model) -> None:
    for case in text_cases("openclip", "trained"):
        assert_same(embed_texts(model, [case.content])[0], case)


def test_weights_in_a_hub_cache_are_found(tmp_path: Path) -> None:
    folder = golden_copy(tmp_path)
    snapshot = folder / "models--org--name/snapshots/abc"
    snapshot.mkdir(parents=True)
    shutil.move(folder / "open_clip_model.safetensors", snapshot)

    assert_golden(load(tmp_path))


@pytest.mark.parametrize("described_by", ["config.json", "open_clip_config.json"])
def test_either_file_may_describe_an_unknown_architecture(
    tmp_path: Path, described_by: str
) -> None:
    folder = golden_copy(tmp_path)
    for name in {"config.json", "open_clip_config.json"} - {described_by}:
        (folder / name).unlink()

    assert_golden(load(tmp_path))


def test_a_folder_that_says_nothing_ends_in_one_sentence(tmp_path: Path) -> None:
    folder = golden_copy(tmp_path)
    (folder / "open_clip_config.json").unlink()
    (folder / "config.json").write_text('{"model_name": "no-such-architecture"}')

    with pytest.raises(ModelFolderError, match="does not know the name 'no-such-architecture'"):
        load(tmp_path)


def test_a_folder_without_weights_ends_in_one_sentence(tmp_path: Path) -> None:
    (golden_copy(tmp_path) / "open_clip_model.safetensors").unlink()

    with pytest.raises(ModelFolderError, match="holds no weights"):
        load(tmp_path)


@pytest.fixture
def foreign(tmp_path: Path) -> tuple[Path, Any]:
    """A folder as download.py leaves it for xlm-roberta, and the model that it was made from."""
    folder = tmp_path / "openclip"
    tower = make_tower(folder / "models--org--xlm-tiny/snapshots/abc")
    text = {**ARCHITECTURE["text_cfg"], "hf_model_name": str(tower)}
    torch.manual_seed(1)
    factory._MODEL_CONFIGS["foreign"] = {**ARCHITECTURE, "text_cfg": text}
    model = open_clip.create_model("foreign", pretrained_text=False).eval()
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    description = {"model_name": "foreign-tower", "pretrained": "x", "model_config": ARCHITECTURE}
    (folder / "config.json").write_text(json.dumps(description))
    return tmp_path, model


def test_a_hugging_face_text_tower_is_built_from_disk(foreign: tuple[Path, Any]) -> None:
    root, model = foreign
    tower = root / "openclip/models--org--xlm-tiny/snapshots/abc"
    ids = open_clip.tokenizer.HFTokenizer(str(tower), context_length=77)(TEXTS)
    with torch.inference_mode():
        expected = model.encode_text(ids, normalize=True).numpy()

    np.testing.assert_allclose(embed_texts(load(root), TEXTS), expected, atol=1e-5)


@pytest.mark.usefixtures("converting_here")
def test_a_hugging_face_text_tower_can_be_converted(foreign: tuple[Path, Any]) -> None:
    options = ModelOptions(runtime="openvino")
    converted, original = load_replica(detect(foreign[0]), options), load(foreign[0])
    texts = [*TEXTS, "word " * 200]
    read = [
        [(one.tokens, one.truncated) for one in embed_all(model.towers["text"], texts)]
        for model in (converted, original)
    ]

    assert converted.info.runtime == "openvino"
    np.testing.assert_allclose(
        embed_texts(converted, texts), embed_texts(original, texts), atol=1e-5
    )
    assert read[0] == read[1]
    assert [truncated for _, truncated in read[0]] == [False, False, False, True]


def test_of_a_text_that_a_hugging_face_tower_cuts_it_says_so(foreign: tuple[Path, Any]) -> None:
    model = load(foreign[0])
    fits = " ".join(["a"] * (77 - 2))
    texts = ["a", fits, fits + " a", fits * 3]
    reported = [(one.tokens, one.truncated) for one in embed_all(model.towers["text"], texts)]

    assert reported == [(3, False), (77, False), (77, True), (77, True)]


def test_a_tower_beside_the_weights_is_found_too(foreign: tuple[Path, Any]) -> None:
    root, _ = foreign
    cached = root / "openclip/models--org--xlm-tiny"
    shutil.move(cached / "snapshots/abc", root / "openclip/xlm-tiny")
    shutil.rmtree(cached)

    assert embed_texts(load(root), TEXTS).shape == (3, 16)


def test_a_folder_without_its_text_tower_says_how_to_mend_it(foreign: tuple[Path, Any]) -> None:
    root, _ = foreign
    shutil.rmtree(root / "openclip/models--org--xlm-tiny")

    with pytest.raises(ModelFolderError, match=r"lacks the config and the tokenizer.*download\.py"):
        load(root)


def test_leaving_out_padding_changes_no_vector_of_a_plain_clip() -> None:
    model = load(GOLDEN / "openclip")
    long_and_short = embed_texts(model, TEXTS)

    for text, vector in zip(TEXTS, long_and_short, strict=True):
        np.testing.assert_allclose(embed_texts(model, [text])[0], vector, atol=1e-5)

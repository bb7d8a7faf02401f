import logging
import shutil
from pathlib import Path

import pytest

from backends.folder import detect, find_weights
from backends.hub_cache import hub_snapshot
from backends.load import options_for
from backends.model import ModelOptions
from backends.replicas import load_replica
from config import Settings
from errors import DeviceUnavailableError, ModelFolderError
from tests.golden_cases import GOLDEN, LAYOUTS

FAMILY_OF = {
    "openai": "openai",
    "metaclip2": "openai",
    "openclip": "openclip",
    "siglip": "siglip",
    "siglip1": "siglip",
    "siglip2_naflex": "siglip",
    "modernvbert": "modernvbert",
    "qwen3_vl": "qwen3_vl",
}


def make(root: Path, *folders: str) -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True)
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_recognised(layout: str) -> None:
    assert detect(GOLDEN / layout).family == FAMILY_OF.get(layout, "sentence_transformers")


def test_an_empty_folder_says_what_was_looked_for_and_where(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError) as failure:
        detect(tmp_path)

    assert str(tmp_path) in str(failure.value)
    assert "clip + text" in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("there", "missing"),
    [("openai_clip", "openai_clip_processor"), ("clip", "text"), ("siglip", "model_name")],
)
def test_half_a_model_names_the_missing_half(tmp_path: Path, there: str, missing: str) -> None:
    with pytest.raises(ModelFolderError, match=f"an incomplete .* model: {missing} is missing"):
        detect(make(tmp_path, there))


def test_of_two_families_the_reference_order_decides(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "clip", "text", "openclip")
    with caplog.at_level(logging.WARNING):
        folder = detect(tmp_path)

    assert folder.family == "openclip"
    assert "holds openclip and sentence_transformers; openclip is used" in caplog.text


@pytest.mark.parametrize(("layout", "part"), [("openai", "openai_clip"), ("siglip1", "siglip")])
def test_a_folder_without_weights_ends_in_one_sentence(
    tmp_path: Path, layout: str, part: str
) -> None:
    shutil.copytree(GOLDEN / layout, tmp_path / "models")
    (tmp_path / "models" / part / "model.safetensors").unlink()

    with pytest.raises(ModelFolderError, match="cannot be loaded") as failure:
        load_replica(detect(tmp_path / "models"), ModelOptions())
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("content", "said"), [("{", "is broken: "), ("[]", "is broken: it holds no JSON object")]
)
def test_a_broken_config_of_a_model_of_texts_ends_in_one_sentence(
    tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(content)

    with pytest.raises(ModelFolderError, match=r"config\.json") as failure:
        options_for(detect(tmp_path), Settings())
    assert said in str(failure.value)


def test_a_gpu_that_is_not_there_ends_in_one_sentence() -> None:
    with pytest.raises(DeviceUnavailableError, match="cuda:99 is not there"):
        load_replica(detect(GOLDEN / "openai"), ModelOptions(device="cuda:99"))


def test_a_snapshot_is_found_by_its_ref_or_where_it_is_the_only_one(tmp_path: Path) -> None:
    snapshots = tmp_path / "models--org--name/snapshots"
    make(snapshots, "aaa", "bbb")
    assert hub_snapshot(tmp_path, "org/name") == snapshots / "aaa"

    make(tmp_path, "models--org--name/refs")
    (tmp_path / "models--org--name/refs/main").write_text("bbb")
    assert hub_snapshot(tmp_path, "org/name") == snapshots / "bbb"
    assert hub_snapshot(tmp_path, "org/other") is None


def test_safetensors_come_before_pickles(tmp_path: Path) -> None:
    for name in ("a.bin", "b.safetensors"):
        (tmp_path / name).touch()

    assert find_weights(tmp_path) == tmp_path / "b.safetensors"


def test_the_raw_text_of_trust_remote_code_is_read() -> None:
    assert detect(GOLDEN / "openai").trust_remote_code == "False"

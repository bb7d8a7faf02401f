"""Which folders in MODELS_DIR are models, and what each may set for itself."""

import logging
import re
import shutil
from pathlib import Path

import pytest

from backends.model_folders import find_models
from config import OF_A_MODEL, Settings
from errors import ConfigurationError, ModelFolderError
from registry import settings_by_name
from tests.golden_cases import GOLDEN, LAYOUTS
from tests.golden_rerankers import GOLDEN_RERANKERS
from tests.golden_texts import GOLDEN_TEXTS
from tests.service import ROOT

CLIP = ("openai_clip", "openai_clip_processor")


def make(root: Path, *folders: str) -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True)
    return root


@pytest.mark.parametrize(
    "folder",
    [
        *(GOLDEN / layout for layout in LAYOUTS),
        *(path.parent for path in sorted(GOLDEN_TEXTS.glob("*/model"))),
        *(path.parent for path in sorted(GOLDEN_RERANKERS.glob("*/model"))),
        ROOT / "demo/models",
    ],
    ids=lambda path: path.name,
)
def test_the_folder_of_one_model_holds_no_others(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    assert find_models(folder) == {}
    assert caplog.messages == []
    assert settings_by_name(Settings(models_dir=folder)).keys() == {""}


@pytest.mark.parametrize("root", ["nothing", "empty", "stray", "."])
def test_nor_does_a_folder_without_any(root: str, tmp_path: Path) -> None:
    """A collection of models, one level further down, is no model of the family `openclip`."""
    make(tmp_path, "empty", "stray/photos/openai_clip", "collection/openclip/openclip")

    assert find_models(tmp_path / root) == {}


def test_every_layout_is_found_below_a_name(tmp_path: Path) -> None:
    for layout in LAYOUTS:
        (tmp_path / layout).symlink_to(GOLDEN / layout)
    shutil.copytree(ROOT / "demo/models/converted/demo", tmp_path / "alone")

    assert find_models(tmp_path) == {name: tmp_path / name for name in sorted([*LAYOUTS, "alone"])}


def test_parts_of_a_layout_are_likely_names_of_models_too(tmp_path: Path) -> None:
    make(tmp_path, *(f"clip/{part}" for part in CLIP), "text/model", "model/model")

    assert list(find_models(tmp_path)) == ["clip", "model", "text"]


def test_what_is_no_model_is_skipped_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "photos/clip", "photos/text", "converted/x", ".hidden/model", "lost+found/model")
    make(tmp_path, "notes", "half/openai_clip")
    (tmp_path / "file").touch()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    # As a model that was alone leaves it, once it has a folder of its own.
    shutil.copytree(ROOT / "demo/models/converted/demo", tmp_path / "converted/demo")
    caplog.set_level(logging.INFO)

    assert list(find_models(tmp_path)) == ["photos"]
    skipped = {re.sub(r".*: ", "", message) for message in caplog.messages}
    names = (".hidden", "converted", "file", "gone", "half", "lost+found", "notes")
    assert skipped == {repr(name) for name in names}


@pytest.mark.parametrize("family", [("clip", "text"), CLIP, ("model",)])
def test_a_model_beside_models_is_refused(family: tuple[str, ...], tmp_path: Path) -> None:
    make(tmp_path, *family, "another/model", "more/model")

    with pytest.raises(ModelFolderError, match="holds models as well: another, more"):
        find_models(tmp_path)


@pytest.mark.parametrize("name", ["my model", "-a", "_a", "a" * 65, "café", "a\nb"])
def test_a_model_with_another_name_is_refused(name: str, tmp_path: Path) -> None:
    make(tmp_path, f"{name}/model", "fine/model")

    with pytest.raises(ModelFolderError, match="in a folder with an invalid name") as failure:
        find_models(tmp_path)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("name", ["a", "A1", "minilm-l6_v2.5", "0" * 64])
def test_names_are_kept_exactly(name: str, tmp_path: Path) -> None:
    assert list(find_models(make(tmp_path, f"{name}/model"))) == [name]


# --- settings.env


def settings_in(root: Path, text: str, **others: object) -> Settings:
    make(root, "e5/model", "clip/model")
    (root / "e5/settings.env").write_text(text)
    return settings_by_name(Settings.model_validate({"models_dir": root, **others}))["e5"]


def test_a_file_in_the_folder_sets_what_is_of_one_model(tmp_path: Path) -> None:
    text = "\ufeff# of E5\nPRECISION = int8\n\nuse_query_passage_prefixes=true\nMAX_IMAGE_TILES=\n"
    own = settings_in(tmp_path, text, precision="bfloat16", max_image_tiles=4, port=1)
    other = settings_by_name(own.model_copy(update={"models_dir": tmp_path}))["clip"]

    assert (own.precision, own.use_query_passage_prefixes) == ("int8", True)
    assert (own.max_image_tiles, own.port) == (4, 1)  # as for all
    assert own.models_dir == tmp_path / "e5"
    assert own.served_model_name == "e5"
    assert other.served_model_name == "clip"


def test_the_file_is_read_as_docker_compose_reads_such_files(tmp_path: Path) -> None:
    text = "export PRECISION='int8'   # fast\r\nMAX_BATCH_SIZE=\"4\"\r\nMAX_IMAGE_TILES=$HOME"
    with pytest.raises(ConfigurationError, match=r"MAX_IMAGE_TILES: .* and not '\$HOME'"):
        settings_in(tmp_path / "a", text)
    own = settings_in(tmp_path / "b", text.replace("$HOME", "3"))

    assert (own.precision, own.max_batch_size, own.max_image_tiles) == ("int8", 4, 3)


def test_the_switch_for_code_of_a_model_is_of_that_model_alone(tmp_path: Path) -> None:
    own = settings_in(tmp_path, "TRUST_REMOTE_CODE=1", trust_remote_code=True)
    clip = settings_by_name(Settings(models_dir=tmp_path, trust_remote_code=True))["clip"]

    assert own.trust_remote_code
    assert not clip.trust_remote_code


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("PORT=1", "PORT is no setting of a single model"),
        ("VECTOR_CACHE_SIZE=1", "VECTOR_CACHE_SIZE is no setting of a single model"),
        ("anything=1", "anything is no setting of a single model"),
        ("# of E5\n\nTRUST_REMOTE_CODE\n", "line 3: 'TRUST_REMOTE_CODE' sets nothing: write NAME="),
        ("PRECISION=int8\nMAX_BATCH_SIZE: 4", "line 2: 'MAX_BATCH_SIZE: 4' sets nothing"),
        ('PRECISION="int8', "line 1: 'PRECISION=\"int8' sets nothing"),
        ("=int8", "line 1: '=int8' sets nothing"),
        ("PRECISION=int4", "PRECISION: 'float32', "),
        ("USE_QUERY_PASSAGE_PREFIXES=yes", "PREFIXES: 1, true, 0 or false, and not 'yes'"),
        ("MAX_BATCH_SIZE=many", "MAX_BATCH_SIZE: a whole number, such as 16, and not 'many'"),
    ],
)
def test_a_file_that_says_anything_else_ends_the_start(
    text: str, fault: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(fault)) as failure:
        settings_in(tmp_path, text)
    assert str(tmp_path / "e5/settings.env") in str(failure.value)


def test_a_file_that_is_no_text_ends_the_start(tmp_path: Path) -> None:
    make(tmp_path, "e5/model")
    (tmp_path / "e5/settings.env").write_bytes(b"\xff\xfe")

    with pytest.raises(ConfigurationError, match=r"settings\.env cannot be read"):
        settings_by_name(Settings(models_dir=tmp_path))


def test_a_folder_or_a_broken_link_in_its_place_ends_the_start(tmp_path: Path) -> None:
    """Otherwise the model has other settings than its operator mounted."""
    make(tmp_path, "folder/e5/model", "link/e5/model")
    (tmp_path / "folder/e5/settings.env").mkdir()
    (tmp_path / "link/e5/settings.env").symlink_to(tmp_path / "gone")

    with pytest.raises(ConfigurationError, match=r"settings\.env cannot be read: Is a directory"):
        settings_by_name(Settings(models_dir=tmp_path / "folder"))
    with pytest.raises(ConfigurationError, match=r"settings\.env cannot be read: No such file"):
        settings_by_name(Settings(models_dir=tmp_path / "link"))


def test_a_model_alone_does_not_read_it_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "model")
    (tmp_path / "settings.env").write_text("PRECISION=int8")
    own = settings_by_name(Settings(models_dir=tmp_path))[""]

    assert own.precision is None
    assert f"{tmp_path / 'settings.env'} is not read" in caplog.text


def test_every_setting_of_a_model_is_a_setting() -> None:
    assert set(OF_A_MODEL) <= Settings.model_fields.keys()

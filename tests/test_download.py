"""What download.py decides before it reaches for a hub."""

import subprocess
import sys
from pathlib import Path

import pytest

from config import DownloadSettings
from download import plan
from tests.golden_cases import GOLDEN
from tests.service import ROOT, environment

PAIR = {"clip_model_name": "org/clip", "text_model_name": "org/clip"}


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (PAIR, "sentence_transformers"),
        ({"clip_model_name": "a", "text_model_name": "b"}, "sentence_transformers"),
        ({**PAIR, "clip_model_type": "OpenAI"}, "openai"),
        (dict.fromkeys(PAIR, "openai/clip-vit-base-patch16"), "openai"),
        (dict.fromkeys(PAIR, "facebook/metaclip-2-worldwide-b32-384"), "openai"),
        ({**PAIR, "open_clip_model_name": "ViT-B-16"}, "sentence_transformers"),
        ({**PAIR, "open_clip_model_name": "x", "open_clip_pretrained": "y"}, "openclip"),
        (
            {
                "siglip_model_name": "google/siglip",
                "open_clip_model_name": "x",
                "open_clip_pretrained": "y",
            },
            "siglip",
        ),
    ],
)
def test_the_precedence_is_that_of_the_reference(names: dict[str, str], family: str) -> None:
    assert plan(DownloadSettings.model_validate(names)).family == family


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({}, "TEXT_MODEL_NAME is required"),
        ({"TEXT_MODEL_NAME": "a"}, "CLIP_MODEL_NAME is required"),
        ({"TEXT_MODEL_NAME": "", "CLIP_MODEL_NAME": "a"}, "TEXT_MODEL_NAME is required"),
        ({"TEXT_MODEL_NAME": "a", "CLIP_MODEL_NAME": "openai/b"}, "must be equal"),
        ({"COLPALI_ENGINE_MODEL_NAME": "a"}, "planned, not yet supported"),
        (
            {"OPEN_CLIP_MODEL_NAME": "ViT-B-32", "OPEN_CLIP_PRETRAINED": "laion"},
            "close to it are: ViT-B-32 ",
        ),
    ],
)
def test_what_cannot_be_downloaded_ends_with_one_sentence_and_code_1(
    tmp_path: Path, variables: dict[str, str], sentence: str
) -> None:
    answer = run(tmp_path, variables)

    assert answer.returncode == 1
    assert sentence in answer.stderr
    assert "Traceback" not in answer.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_family_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "openclip").mkdir()
    names = {"TEXT_MODEL_NAME": "a", "CLIP_MODEL_NAME": "a"}

    assert "already holds another family, openclip" in run(tmp_path, names).stderr


def test_models_on_disk_are_saved_in_the_layout_and_checked(tmp_path: Path) -> None:
    """A path may stand where a name is expected: the whole way, but for the hub."""
    source = GOLDEN / "sentence_transformers/clip"
    names = {"TEXT_MODEL_NAME": str(source), "CLIP_MODEL_NAME": str(source)}
    answer = run(tmp_path, names)

    assert answer.returncode == 0, answer.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"clip", "text", "trust_remote_code"}
    assert "48 dimensions" in answer.stderr


def run(models_dir: Path, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "download.py"],
        cwd=ROOT,
        env=environment(MODELS_DIR=models_dir, **variables),
        capture_output=True,
        text=True,
        check=False,
    )

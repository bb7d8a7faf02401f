"""download.py --export: what it copies serves without torch, and nothing else is in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from backends.conversion.description import FailedConversion
from backends.conversion.fingerprint import digest_code, digest_content
from backends.folder import CONVERSIONS, RECORD, detect
from backends.identity import PREPROCESSING_VERSIONS, Identity
from backends.model import ModelOptions
from backends.replicas import load_replica
from tests.golden_cases import GOLDEN, assert_same, embed_texts, text_cases
from tests.golden_texts import GOLDEN_TEXTS
from tests.service import CONVERTED, ROOT, SERVING_ONLY, environment

OPENVINO = ModelOptions(runtime="openvino")


def export(
    root: Path, target: Path, cache: Path = CONVERTED, **variables: object
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "download.py", "--convert", "--export", str(target)]
    own = {"MODELS_DIR": root, "RUNTIME_CACHE_DIR": cache, **variables}
    return subprocess.run(
        command, cwd=ROOT, env=environment(**own), capture_output=True, text=True, check=False
    )


def test_the_conversion_is_exported_without_the_original(tmp_path: Path) -> None:
    root = Path(shutil.copytree(GOLDEN / "siglip", tmp_path / "original"))
    (root / RECORD).write_text("{}")
    answer = export(root, tmp_path / "models", TEXT_MODE="reference")

    assert answer.returncode == 0, answer.stderr
    (folder,) = (tmp_path / "models" / CONVERSIONS).iterdir()
    assert not (folder / "source.json").exists()
    assert sorted(os.listdir(tmp_path / "models")) == [CONVERSIONS, RECORD]
    options = ModelOptions(runtime="openvino", text_mode="reference")
    case = text_cases("siglip", "reference")[0]
    assert_same(
        embed_texts(load_replica(detect(tmp_path / "models"), options), [case.content])[0], case
    )


def test_a_table_is_exported_as_it_is(tmp_path: Path) -> None:
    root = GOLDEN_TEXTS / "model2vec"
    answer = export(root, tmp_path / "models")

    assert answer.returncode == 0, answer.stderr
    models = [load_replica(detect(one), OPENVINO) for one in (root, tmp_path / "models")]
    assert models[0].info == models[1].info


def test_what_only_torch_can_serve_ends_with_a_sentence(tmp_path: Path) -> None:
    root = Path(shutil.copytree(GOLDEN / "openai", tmp_path / "original"))
    folder = detect(root)
    identity = Identity(
        folder.family, digest_content(folder), PREPROCESSING_VERSIONS[folder.family], ["trained"]
    )
    refusal = tmp_path / "cache" / "refused"
    refusal.mkdir(parents=True)
    FailedConversion(identity, "it has a wheel too many", digest_code()).write(refusal)
    answer = export(root, tmp_path / "models", cache=refusal.parent)

    assert answer.returncode == 1
    assert answer.stderr.splitlines()[-1] == (
        "Fatal: this model needs torch, as it cannot be converted (it has a wheel too many): build "
        "it with --target cuda, or on the custom image"
    )
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("there", ["file", "folder"])
def test_a_folder_that_cannot_be_made_ends_with_a_sentence(there: str, tmp_path: Path) -> None:
    target = tmp_path / "models"
    target.write_text("") if there == "file" else (target / CONVERSIONS / "x").mkdir(parents=True)
    answer = export(GOLDEN / "openai", target)

    assert (answer.returncode, "Traceback" in answer.stderr) == (1, False)
    assert "cannot be written" in answer.stderr.splitlines()[-1]


def test_where_torch_is_not_nothing_is_downloaded(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "download.py"],
        cwd=ROOT,
        env=environment(PYTHONPATH=SERVING_ONLY, MODELS_DIR=tmp_path, MODEL_NAME="org/any"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert answer.returncode == 1
    assert answer.stderr == (
        "Fatal: download.py needs torch, which checks that a model works: install "
        "requirements.txt, or run it in the custom image\n"
    )

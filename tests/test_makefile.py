"""The Makefile, with a Python in `.venv` that installs nothing and tells what it is asked."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service import ROOT

# Notes each call with MODELS_DIR; only the catalogue is looked up for real.
PYTHON = f"""#!/bin/sh
echo "$(basename "$0") $* [$MODELS_DIR]" >> calls
case "$*" in "-m fetch.catalogue"*|"-c "*) exec {sys.executable} "$@" ;; esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What the Makefile needs, and a virtual environment with nothing installed."""
    for name in ("Makefile", "errors.py", *(path.name for path in ROOT.glob("requirements*"))):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("fetch", "cicd"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("python", "pip", "ruff", "uv"):
        (tmp_path / ".venv/bin" / name).write_text(PYTHON)
        (tmp_path / ".venv/bin" / name).chmod(0o755)
    (tmp_path / ".venv/python").touch()
    return tmp_path


def make(project: Path, *arguments: str) -> tuple[int, str]:
    clean = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    answer = subprocess.run(
        ["make", *arguments], cwd=project, env=clean, capture_output=True, text=True, check=False
    )
    return answer.returncode, answer.stdout + answer.stderr


def calls(project: Path) -> list[str]:
    said = (project / "calls").read_text().splitlines() if (project / "calls").exists() else []
    return [call for call in said if not call.startswith("python -c ")]


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("openai-clip-vit-base-patch61", "openai-clip-vit-base-patch16"),
        ("clip-vit-b-32", "sentence-transformers-clip-ViT-B-32"),
        ("distilbert-base-uncased,clip-vit-b-32", "sentence-transformers-clip-ViT-B-32"),
    ],
)
@pytest.mark.parametrize("jobs", ["-j1", "-j4"])
def test_a_misspelt_model_is_reported_before_anything_is_installed(
    project: Path, typed: str, nearest: str, jobs: str
) -> None:
    code, said = make(project, "run", f"MODEL={typed}", jobs)

    assert code == 2
    misspelt = typed.rpartition(",")[2]
    assert f"Fatal: there is no model {misspelt} (did you mean {nearest}?)" in said
    assert {tuple(call.split()[:3]) for call in calls(project)} == {
        ("python", "-m", "fetch.catalogue")
    }


def test_a_model_of_the_catalogue_is_installed_for_and_downloaded(project: Path) -> None:
    code, said = make(project, "run", "MODEL=distilbert-base-uncased")

    assert code == 0, said
    assert "pip install -r requirements.txt []" in calls(project)
    assert "python download.py --model distilbert-base-uncased []" in calls(project)
    assert calls(project)[-1] == "python app.py [models/distilbert-base-uncased]"


def test_several_models_are_downloaded_and_linked_into_one_folder(project: Path) -> None:
    tags = ["distilbert-base-uncased", "openai-clip-vit-base-patch16"]
    stale = project / f"build/models/{','.join(tags)}/another"
    stale.mkdir(parents=True)
    code, said = make(project, "run", f"MODEL={','.join(tags)}")

    assert code == 0, said
    downloads = [call for call in calls(project) if "download.py" in call]
    assert downloads == [f"python download.py --model {tag} []" for tag in tags]
    assert calls(project)[-1] == f"python app.py [build/models/{','.join(tags)}]"
    links = {link.name: link.readlink() for link in stale.parent.iterdir()}
    assert links == {tag: project / "models" / tag for tag in tags}


@pytest.mark.parametrize("target", ["lint", "format"])
def test_checking_style_installs_nothing_but_ruff(project: Path, target: str) -> None:
    code, said = make(project, target)

    assert code == 0, said
    (ruff,) = (
        line
        for line in (ROOT / "requirements-dev.txt").read_text().splitlines()
        if line.startswith("ruff==")
    )
    assert [call for call in calls(project) if call.startswith("pip")] == [f"pip install {ruff} []"]


def test_uv_installs_where_it_is_named(project: Path) -> None:
    code, said = make(project, "run", "MODEL=distilbert-base-uncased", "UV=.venv/bin/uv")

    assert code == 0, said
    installs = [call for call in calls(project) if " install " in call]
    assert installs == [
        f"uv pip install --python .venv/bin/python -r {name} []"
        for name in ("requirements-serve.txt", "requirements.txt")
    ]


@pytest.mark.parametrize("fault", ["gone", "moved"])
@pytest.mark.parametrize("target", ["run", "lint", "test"])
def test_a_broken_environment_says_what_to_do(project: Path, fault: str, target: str) -> None:
    broken = project / ".venv/bin" / {"gone": "python", "moved": "pip"}[fault]
    broken.write_text("#!/elsewhere/.venv/bin/python\n")

    code, said = make(project, target)
    assert code == 2
    assert "The virtual environment .venv is broken" in said
    assert "Run `make clean`, then this again" in said
    assert calls(project) == []

    assert make(project)[0] == 0  # the list of targets
    assert make(project, "clean")[0] == 0
    assert not (project / ".venv").exists()


@pytest.mark.parametrize("name", ["models", "my models", "it's mine", "a, b"])
def test_a_model_folder_may_have_any_name(project: Path, name: str) -> None:
    folder = project / name / "converted/one"
    folder.mkdir(parents=True)
    (folder / "model.json").touch()

    code, said = make(project, "run", f"MODELS_DIR={name}")

    assert code == 0, said
    assert f"Serving {name} on http://localhost:8080" in said
    assert [call.split(" [")[0] for call in calls(project)] == [
        "pip install -r requirements-serve.txt",  # no torch: it is converted
        "python app.py",
    ]
    assert calls(project)[-1].endswith(f" [{name}]")


def test_a_model_folder_in_a_home_is_found(project: Path) -> None:
    """Not every shell puts the home in place of ~ there."""
    answer = subprocess.run(
        ["make", "-n", "run", "MODELS_DIR=~/my models"],
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
    )

    assert "MODELS_DIR=~/'my models' PORT=8080 exec" in answer.stdout

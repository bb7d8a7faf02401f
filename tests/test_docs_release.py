"""A release: its tag names the version everywhere before anything is published."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from config import VERSION
from tests.service import ROOT

FILES = ("config.py", "pyproject.toml", "cicd/check_version.sh")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The files that name the version, and a changelog that tells of it."""
    (tmp_path / "cicd").mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text(f"## [{VERSION}] - 2030-01-31\n")
    return tmp_path


def check(repository: Path, tag: str) -> subprocess.CompletedProcess[str]:
    script = repository / "cicd/check_version.sh"
    return subprocess.run([script, tag], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("tag", [VERSION, f"v{VERSION}"])
def test_a_tag_that_names_the_version_is_released(repository: Path, tag: str) -> None:
    answer = check(repository, tag)

    assert (answer.returncode, answer.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("config.py", 'config.py has not the line VERSION = "9.9.9"'),
        ("pyproject.toml", 'pyproject.toml has not the line version = "9.9.9"'),
        ("CHANGELOG.md", "CHANGELOG.md has no section ## [9.9.9]"),
    ],
)
def test_a_tag_that_one_file_does_not_name_is_not_released(
    repository: Path, name: str, told: str
) -> None:
    for other in {"config.py", "pyproject.toml", "CHANGELOG.md"} - {name}:
        path = repository / other
        path.write_text(path.read_text().replace(VERSION, "9.9.9"))
    answer = check(repository, "9.9.9")

    assert (answer.returncode, answer.stderr.strip()) == (1, told)


def test_a_release_publishes_images_and_then_the_site() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    steps = [step.get("run", step.get("uses", "")) for step in jobs["site"]["steps"]]

    assert jobs["images"] | {"permissions": {}} == {
        "needs": "version",
        "permissions": {},
        "uses": "./.github/workflows/images.yml",
        "secrets": "inherit",
    }
    assert jobs["site"]["needs"] == "images"
    assert "make docs" in steps
    assert any(step.startswith("actions/deploy-pages@") for step in steps)

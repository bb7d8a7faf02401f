"""What the tests of images and deployments say where Docker lacks something."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.stand_ins import WEAVIATE, DockerError, check_docker, image_for


class Usage(NamedTuple):
    free: int


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A docker that pulls nothing and is the only program."""
    program = tmp_path / "docker"
    program.write_text(
        "#!/bin/sh\n"
        'case "$*" in pull*|"image inspect"*|compose*) exit 1 ;; esac\n'
        f"echo {tmp_path}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return program


def test_without_an_engine_or_a_plugin_they_say_which_command_fails(docker: Path) -> None:
    with pytest.raises(DockerError, match="`docker compose version` fails"):
        check_docker("buildx", "compose")
    docker.unlink()
    with pytest.raises(DockerError, match="`docker info` fails"):
        check_docker()


@pytest.mark.usefixtures("docker")
def test_a_small_disk_is_named_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCH_INDEX_URL", raising=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(19_000_000_000))
    with pytest.raises(DockerError) as failure:
        check_docker()
    assert str(failure.value) == f"{tmp_path} has 19 GB free: images need 20 GB"

    monkeypatch.setenv("TORCH_INDEX_URL", "https://example.org/cpu")  # torch without CUDA
    check_docker()


def test_room_that_images_take_already_counts(
    docker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCH_INDEX_URL", raising=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(13_000_000_000))
    docker.write_text(
        "#!/bin/sh\n"
        'case "$*" in "system df"*) printf "1.2GB\\n0B\\n$BUILT\\n" ;; '
        f"*) echo {tmp_path} ;; esac\n"
    )
    monkeypatch.setenv("BUILT", "870MB")
    with pytest.raises(DockerError, match="13 GB free"):
        check_docker()

    monkeypatch.setenv("BUILT", "6.949GB")
    check_docker()


@pytest.mark.usefixtures("docker")
def test_an_image_that_cannot_be_had_says_what_could_stand_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WEAVIATE_BINARY", raising=False)
    with pytest.raises(DockerError, match="set WEAVIATE_BINARY to Weaviate's program"):
        image_for(WEAVIATE)
    with pytest.raises(DockerError, match="nothing is known to stand in for it"):
        image_for("another/image:1")

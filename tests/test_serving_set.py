"""requirements-serve.txt: enough to serve a converted model, and no torch in it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.service import ROOT, SERVING_ONLY, environment, running

DEMO = ROOT / "demo/models"
LOCKS = (ROOT / "requirements-serve.txt", ROOT / "requirements.txt")
# Nobody who only serves needs one of these; the hub's library comes with tokenizers.
NEVER = {"torch", "torchvision", "transformers", "sentence-transformers", "open-clip-torch", "timm"}


def pins_of(lock: Path) -> set[str]:
    return set(re.findall(r"^[\w.-]+==[^\s;\\]+", lock.read_text(), re.MULTILINE))


def test_the_serving_set_is_part_of_the_whole_in_the_same_versions() -> None:
    serving, whole = map(pins_of, LOCKS)

    assert serving < whole
    assert not NEVER & {pin.partition("==")[0] for pin in serving}


def test_every_package_of_the_serving_set_has_its_hashes() -> None:
    entries = re.split(r"\n(?=[a-z])", LOCKS[0].read_text())[1:]

    assert len(entries) == len(pins_of(LOCKS[0]))
    assert all("--hash=sha256:" in entry for entry in entries)


def test_it_serves_every_route(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(log, PYTHONPATH=SERVING_ONLY, MODELS_DIR=DEMO, RUNTIME_CACHE_DIR="") as service:
        _, routes = service.request("GET", "/")
        _, description = service.request("GET", "/openapi.json")
        served = service.request("GET", "/v1/models")[1]["data"][0]["id"]
        for route in routes["routes"]:
            method, path = route.replace("{model}", served).split()
            about = description["paths"].get(path, {}).get(method.lower(), {})
            bodies = examples_of(about) if method == "POST" else [None]
            assert bodies
            for body in bodies:
                with service.connect() as connection:
                    connection.request(method, path, body)
                    assert connection.getresponse().status < 300, (route, body)
        _, meta = service.request("GET", "/meta")

    assert meta["service"]["runtime"] == "openvino"


def examples_of(operation: dict[str, Any]) -> list[str]:
    """The bodies that /docs offers to try."""
    content = operation["requestBody"]["content"]["application/json"]
    return [json.dumps(example) for example in content["schema"]["examples"]]


@pytest.mark.parametrize("library", ["torch", "transformers", "sentence_transformers", "open_clip"])
def test_no_torch_can_be_imported_there(library: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", f"import openvino, {library}"],
        env=environment(PYTHONPATH=SERVING_ONLY),
        capture_output=True,
        text=True,
        check=False,
    )

    assert answer.returncode == 1
    assert answer.stderr.endswith(f"ModuleNotFoundError: No module named '{library}'\n")


@pytest.mark.parametrize(
    ("variables", "installed"),
    [
        ([], "requirements-serve.txt"),
        (["MODELS_DIR=demo/models"], "requirements-serve.txt"),
        (["MODEL=openai-clip-vit-base-patch16"], "install_requirements.sh"),
        (["ENABLE_CUDA=1"], "install_requirements.sh"),
        (["RUNTIME=torch"], "install_requirements.sh"),
        (["MODELS_DIR=models"], "install_requirements.sh"),  # nothing is converted there
    ],
)
def test_make_run_installs_what_it_needs_and_nothing_else(
    variables: list[str], installed: str, tmp_path: Path
) -> None:
    for name in ("Makefile", "demo", "cicd", "requirements.txt", "requirements-serve.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    command = ["make", "--dry-run", "run", *variables]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    installs = re.findall(r"pip install -r (\S+)|cicd/(\S+)", printed.stdout)
    assert "".join(installs[-1]) == installed

"""What people copy to run the service: linted, valid, and true to the settings."""

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from config import DownloadSettings, Settings
from tests.service import ROOT

SCRIPTS = sorted((ROOT / "cicd").glob("*.sh"))
MANIFESTS = sorted((ROOT / "deploy/kubernetes").glob("*.yaml"))
COMPOSE = sorted(ROOT.glob("docker-compose*.yml"))
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
DOCKERFILES = [ROOT / "Dockerfile", ROOT / "custom.Dockerfile"]
OF_THE_BUILD = {"TORCH_INDEX_URL", "PYTHON_IMAGE", "HF_ENDPOINT"}
OF_THE_CONVERSION = {"RUNTIME", "TEXT_MODE"}  # settings of the service that it depends on


def assert_passes(tool: str, *arguments: object) -> None:
    """Run a tool of the development requirements, which must find nothing."""
    path = Path(sys.executable).parent / tool
    answer = subprocess.run(
        [path, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def test_scripts_are_clean() -> None:
    assert_passes("shellcheck", "-x", *SCRIPTS, ".ci/run")


def test_dockerfiles_are_clean() -> None:
    assert_passes("hadolint", *DOCKERFILES)


def test_the_two_dockerfiles_share_all_but_their_ends() -> None:
    """They cannot include each other; what they share must not drift apart."""
    standard, custom = (path.read_text() for path in DOCKERFILES)
    begin, end = "ARG PYTHON_IMAGE", 'CMD ["exec python3 app.py"]\n'
    shared = custom[custom.index(begin) : custom.index(end) + len(end)]

    assert shared in standard
    assert len(shared) > 0.8 * len(custom) - 400


def test_the_image_takes_every_variable_that_names_a_model() -> None:
    declared = set(re.findall(r"([A-Z_]+)=", " ".join(arg_lines(DOCKERFILES[0]))))
    names = {name.upper() for name in DownloadSettings.model_fields} - {"MODELS_DIR", "HF_TOKEN"}

    assert declared - OF_THE_BUILD - OF_THE_CONVERSION == names
    passed_on = (ROOT / "cicd/arguments.sh").read_text()
    assert all(re.search(rf"\b{name}\b", passed_on) for name in declared)


def arg_lines(dockerfile: Path) -> list[str]:
    return [line for line in dockerfile.read_text().splitlines() if line.startswith("ARG ")]


def test_the_weights_come_before_the_code_that_does_not_make_them() -> None:
    text = DOCKERFILES[0].read_text()
    before, after = text.split("./download.py\n", 1)

    assert "COPY . ." in after
    for path in ("app.py", "vectorizer.py", "web", "inference", "COPY . ."):
        assert path not in before.split("FROM ${PYTHON_IMAGE} AS base")[1].replace('app.py"]', "")


def test_no_secret_is_an_argument() -> None:
    assert not [line for path in DOCKERFILES for line in arg_lines(path) if "TOKEN" in line]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_valid(path: Path) -> None:
    assert_passes("kubernetes-validate", "--strict", path)


@pytest.mark.parametrize(
    ("schema", "paths"), [("compose-spec", COMPOSE), ("github-workflows", WORKFLOWS)]
)
def test_compose_files_and_workflows_are_valid(schema: str, paths: list[Path]) -> None:
    assert paths
    assert_passes("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *paths)


def test_every_variable_that_is_set_is_a_setting() -> None:
    containers = [
        container
        for path in MANIFESTS
        for document in documents(path)
        for container in pod_of(document).get("containers", [])
    ]
    in_kubernetes = {variable["name"] for c in containers for variable in c["env"]}
    services = [documents(path)[0]["services"]["multi2vec-clip"] for path in COMPOSE]
    in_compose = {name for service in services for name in service["environment"]}
    settings = {name.upper() for name in Settings.model_fields}

    assert in_kubernetes | in_compose <= settings
    assert {"ENABLE_CUDA", "DRAIN_DELAY_S"} <= in_kubernetes | in_compose
    arguments = {name for service in services for name in service["build"]["args"]}
    assert arguments <= OF_THE_BUILD | OF_THE_CONVERSION | {
        name.upper() for name in DownloadSettings.model_fields
    }


def pod_of(document: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = document.get("spec", {}).get("template", {}).get("spec", {})
    return pod


def test_a_pod_has_time_to_drain() -> None:
    (pod,) = (pod_of(d) for d in documents(ROOT / "deploy/kubernetes/service.yaml") if pod_of(d))
    variables = {v["name"]: v["value"] for v in pod["containers"][0]["env"]}
    needed_s = float(variables["DRAIN_DELAY_S"]) + Settings().request_timeout_s

    assert pod["terminationGracePeriodSeconds"] >= needed_s
    compose = documents(COMPOSE[-1])[0]["services"]["multi2vec-clip"]
    assert float(compose["stop_grace_period"].removesuffix("s")) >= Settings().request_timeout_s


def test_the_autoscaler_reads_a_metric_that_exists() -> None:
    (autoscaler,) = documents(ROOT / "deploy/kubernetes/autoscaler.yaml")
    name = autoscaler["spec"]["metrics"][0]["pods"]["metric"]["name"]

    assert f'"{name}"' in (ROOT / "web/metrics.py").read_text()


def test_the_matrix_builds_every_tag_that_is_supported() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "fetch.catalogue", "--matrix"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    used = set(re.findall(r"\{\{ matrix\.([A-Za-z_]+)", (ROOT / WORKFLOWS[-1]).read_text()))
    keys = {key for row in json.loads(answer.stdout)["include"] for key in row}

    assert keys - {"build_args"} == used


def test_every_direct_dependency_and_its_licence_are_listed() -> None:
    listed = dict(
        re.findall(r"^\| ([\w.-]+) \| (.+) \|$", (ROOT / "LICENSES.md").read_text(), re.M)
    )
    direct = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.in").read_text(), re.M)

    assert set(direct) == set(listed) - {"package"}
    assert all(metadata(name)["Version"] for name in direct)


def test_the_smoke_test_needs_nothing_but_python() -> None:
    python = shutil.which("python3") or sys.executable
    answer = subprocess.run(
        [python, "-I", "smoke_test.py", "http://127.0.0.1:9", "--wait", "0.5"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )

    assert (answer.returncode, answer.stdout) == (1, "FAILED  not ready after 0.5 s\n")

"""The commands of the documentation: run, or held against the files that they name."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from fetch import catalogue
from tests import images
from tests.service import ROOT, Service, running

CLIENTS = ROOT / "build/clients/venv/bin"  # as `make test-clients` installs it

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
CURL = "curl localhost:8080"


@dataclass(frozen=True)
class Block:
    """A block of code: where it stands, its language and its text."""

    page: Path
    language: str
    text: str


def blocks(language: str) -> Iterator[Block]:
    for page in DOCUMENTS:
        found = re.findall(
            rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
        )
        yield from (Block(page, language, text) for text in found)


def lines(beginning: str) -> list[str]:
    """The lines of the shell that begin so, without their comments."""
    shell = [line for block in blocks("sh") for line in block.text.splitlines()]
    return sorted({re.sub(r"\s+# .*", "", line) for line in shell if line.startswith(beginning)})


def values(language: str) -> list[object]:
    return [pytest.param(block, id=f"{block.page.name}") for block in blocks(language)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("docs") / "log"
    with running(log, MODELS_DIR=ROOT / "demo/models") as service:
        yield service


@pytest.mark.parametrize("command", lines(CURL))
def test_each_curl_line_is_answered(demo: Service, command: str) -> None:
    here = command.replace("localhost:8080", f"127.0.0.1:{demo.port}").replace(
        "curl ", "curl --silent --show-error --fail-with-body ", 1
    )
    run = subprocess.run(
        ["bash", "-c", here], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert run.returncode == 0, run.stdout + run.stderr
    answer = json.loads(run.stdout)
    vectors = ("textVectors", "imageVectors", "vector", "data", "service")
    assert any(answer.get(name) for name in vectors)


def test_there_are_curl_lines() -> None:
    assert len(lines(CURL)) > 5


def test_the_smoke_test_passes_as_it_is_called(demo: Service) -> None:
    (command,) = [line for line in lines("python3 smoke_test.py") if "https" not in line]
    arguments = command.replace("localhost:8080", f"127.0.0.1:{demo.port}").split()[1:]
    run = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("block", values("python"))
def test_python_is_python(block: Block) -> None:
    """The example of a mounted application runs in test_fastapi.py, OpenAI's below."""
    assert ast.parse(block.text).body


@pytest.mark.clients
@pytest.mark.timeout(120)
def test_the_example_of_openai_runs(demo: Service) -> None:
    (block,) = [block for block in blocks("python") if "import OpenAI" in block.text]
    here = block.text.replace("localhost:8080", f"127.0.0.1:{demo.port}")
    run = subprocess.run(
        [CLIENTS / "python", "-c", f"{here}\nprint(len(vectors))"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (run.returncode, run.stdout.strip()) == (0, "2"), run.stderr


@pytest.mark.clients
@pytest.mark.parametrize("block", values("js"))
def test_javascript_is_javascript(block: Block, tmp_path: Path) -> None:
    module = tmp_path / "example.mjs"
    module.write_text(block.text)
    run = subprocess.run(
        [CLIENTS / "node", "--check", module], capture_output=True, text=True, check=False
    )

    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("block", values("yaml"))
def test_compose_files_are_valid(block: Block, tmp_path: Path) -> None:
    """`docker compose config` wants Docker, so the schema of Compose judges."""
    content = yaml.safe_load(block.text)
    for service in content["services"].values():
        service.setdefault("image", "what/ever")
    path = tmp_path / "compose.yml"
    path.write_text(yaml.safe_dump(content))
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    run = subprocess.run([*check, path], capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stdout + run.stderr


def test_each_make_target_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([\w./-]+):", makefile, re.MULTILINE))
    text = "\n".join(page.read_text("utf-8") for page in DOCUMENTS)
    named = set(re.findall(r"(?:^|`|=\S* )make ([a-z.][\w./-]*)", text, re.MULTILINE))

    assert len(named) > 8
    assert named - targets == set()


def test_each_model_of_the_readme_is_in_the_catalogue() -> None:
    models = (ROOT / "README.md").read_text("utf-8").partition("## Models")[2]
    section = models.partition("|---")[2].partition("## ")[0]
    tags = {
        tag
        for row in re.findall(r"^\| [^`|]+ \|[^|]+\|(.+)\|$", section, re.MULTILINE)
        for tag in re.findall(r"`(.+?)`", row)
    }

    assert len(tags) > 5
    assert tags <= catalogue.load().keys()


def test_each_build_names_what_the_dockerfile_has() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    stages = set(re.findall(r"^FROM .* AS (\w+)$", dockerfile, re.MULTILINE))
    arguments = set(re.findall(r"^ARG (\w+)=", dockerfile, re.MULTILINE))
    text = "\n".join(page.read_text("utf-8") for page in DOCUMENTS)

    assert set(re.findall(r"--target (\w+)", text)) <= stages
    assert set(re.findall(r"--build-arg (\w+)=", text)) <= arguments


def test_each_file_that_a_command_names_is_there() -> None:
    named = {
        name
        for block in blocks("sh")
        for name in re.findall(
            r"(?<![\w/.])(?:-f |-k )?([\w./-]+\.(?:yml|yaml|py|txt)\b)", block.text
        )
    }

    assert len(named) > 5
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_dockerfiles_are_those_that_make_test_images_builds() -> None:
    page = (ROOT / "docs/images.md").read_text("utf-8")

    assert images.TWO_LINES_BY_NAME in page
    # Its first line has another name for the base.
    assert images.TWO_LINES_BY_FOLDER.partition("\n")[2] in page
    assert re.sub(r"^#.*\n", "", images.PRIVATE, flags=re.MULTILINE) in page


@pytest.mark.parametrize("command", lines("grep "))
def test_a_look_at_the_cpu_works(command: str) -> None:
    run = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env=dict(os.environ)
    )

    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("command", lines(".venv/bin/python -m pytest"))
def test_one_test_is_found_as_the_pages_say(command: str) -> None:
    arguments = command.split()[1:]
    run = subprocess.run(
        [sys.executable, *arguments, "--collect-only", "-q", "-p", "no:cacheprovider"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout
    assert "::" in run.stdout

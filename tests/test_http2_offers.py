"""Clients that offer HTTP/2 by default, as they are: nothing of what they send is lost."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import vector_of
from tests.service import ROOT, Service, running

VECTOR = pytest.approx(vector_of("a").tolist())
LONG = "b" * 100_000  # a body of many segments


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    command = (sys.executable, "-m", "tests.slow_service")
    with running(tmp_path / "log", command) as service:
        yield service


def has_java() -> bool:
    """Tell whether there is a Java that runs a source file; macOS has a stub of that name."""
    if not shutil.which("java"):
        return False
    modules = subprocess.run(
        ["java", "--list-modules"], capture_output=True, text=True, check=False
    )
    return "jdk.compiler" in modules.stdout


@pytest.mark.skipif(not has_java(), reason="this machine has no Java that compiles")
def test_the_jdks_client_is_answered(service: Service) -> None:
    address = f"http://127.0.0.1:{service.port}"
    bodies = {
        "/vectorize": {"texts": ["a"]},
        "//vectorize/": {"texts": ["a", LONG]},
        "/vectors": {"text": "a"},
        "/v1/embeddings": {"input": "a"},
    }
    arguments = [part for path, body in bodies.items() for part in (path, json.dumps(body))]
    arguments[::2] = [address + path for path in arguments[::2]]
    run = subprocess.run(
        ["java", str(ROOT / "tests" / "JdkClient.java"), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )

    lines = run.stdout.splitlines()
    assert [line[:4] for line in lines] == ["200 "] * 2 * len(bodies)
    assert json.loads(lines[0][4:])["textVectors"] == [VECTOR]
    assert len(json.loads(lines[2][4:])["textVectors"]) == 2
    assert json.loads(lines[4][4:])["vector"] == VECTOR
    assert json.loads(lines[6][4:])["data"][0]["index"] == 0


def curl_offers() -> bool:
    if not shutil.which("curl"):
        return False
    about = subprocess.run(["curl", "-V"], capture_output=True, text=True, check=False)
    return "HTTP2" in about.stdout


@pytest.mark.skipif(not curl_offers(), reason="this machine has no curl that knows HTTP/2")
def test_curl_with_http2_is_answered(service: Service, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_text(json.dumps({"texts": ["a", LONG]}))
    address = f"http://127.0.0.1:{service.port}/vectorize"
    run = subprocess.run(
        ["curl", "-s", "--http2", "--data-binary", f"@{body}", address, address],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert run.stdout.count('{"textVectors":[[') == 2

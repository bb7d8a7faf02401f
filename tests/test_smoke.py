"""`smoke_test.py` against services of both kinds of model."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden_cases import GOLDEN
from tests.golden_rerankers import GOLDEN_RERANKERS
from tests.golden_texts import GOLDEN_TEXTS
from tests.service import ROOT, running


@pytest.mark.parametrize(
    ("folder", "passed"),
    [(GOLDEN / "openai", 10), (GOLDEN_TEXTS / "bert", 6), (GOLDEN_RERANKERS / "bert", 6)],
)
def test_it_asks_what_fits_the_model(folder: Path, passed: int, tmp_path: Path) -> None:
    token = {"AUTHENTICATION_ALLOWED_TOKENS": "secret"}
    with running(tmp_path / "log", MODELS_DIR=folder, **token) as service:
        runs = [
            subprocess.run(
                [sys.executable, "-I", "smoke_test.py", f"{user}localhost:{service.port}"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            for user in ("http://weaviate:secret@", "")
        ]

    assert runs[0].stdout.splitlines()[-1] == f"{passed} of {passed} passed"
    assert [run.returncode for run in runs] == [0, 1]  # without the token all fail


def test_what_it_waits_for_is_told_without_the_token() -> None:
    """A listener that speaks no HTTP, and then hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = [
            sys.executable,
            "-I",
            "smoke_test.py",
            f"http://any:secret@127.0.0.1:{port}/clip",
        ]
        process = subprocess.Popen(
            [*command, "--wait", "0.2"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        connection, _ = listener.accept()
        connection.recv(1000)
        connection.sendall(b"SSH-2.0\r\n")
        connection.close()
        said = process.communicate(timeout=20)[0].splitlines()

    where = f"http://127.0.0.1:{port}/clip"
    assert said == [
        f"waiting for {where} for up to 0.2 s: SSH-2.0",
        f"FAILED  {where} is not ready after 0.2 s: SSH-2.0",
    ]
    assert process.returncode == 1

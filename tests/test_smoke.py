"""`smoke_test.py` against services of both kinds of model."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden_cases import GOLDEN
from tests.golden_texts import GOLDEN_TEXTS
from tests.service import ROOT, running


@pytest.mark.parametrize(
    ("folder", "passed"), [(GOLDEN / "openai", 10), (GOLDEN_TEXTS / "bert", 6)]
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

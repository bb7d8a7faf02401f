"""Recorded data and the frozen tests do not change."""

import hashlib
from pathlib import Path

from tests.conftest import FROZEN, WITH_MODELS
from tests.service import ROOT

DIGESTS = ROOT / "tests" / "frozen.sha256"  # of `sha256sum`; new files may be added


def test_no_recorded_answer_and_no_golden_model_has_changed() -> None:
    frozen = [line.split("  ", 1) for line in DIGESTS.read_text("utf-8").splitlines()]
    changed = [name for digest, name in frozen if digest_of(ROOT / name) != digest]

    assert {Path(name).parts[1] for _, name in frozen} == {"golden", "golden_text", "recorded"}
    assert changed == []


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_file_that_conftest_names_is_there() -> None:
    there = {path.name for path in (ROOT / "tests").rglob("test_*.py")}

    assert there >= FROZEN | WITH_MODELS

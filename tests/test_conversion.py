"""A converted model is checked, and serves without its original."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backends.conversion.conversion_cache import converted
from backends.conversion.description import Description
from backends.conversion.parity_check import check_parity, compare
from backends.folder import detect
from backends.model import ModelOptions
from backends.replicas import load_replica
from errors import ConversionError
from tests.golden_cases import (
    EVERY_LAYOUT,
    GOLDEN,
    embed_texts,
    golden_model,
)
from tests.service import CONVERTED, ROOT

OPENVINO = ModelOptions(runtime="openvino", cache_dir=CONVERTED)


@EVERY_LAYOUT
def test_every_family_is_converted(layout: str) -> None:
    info = golden_model(layout, "trained", "openvino").info
    by_torch = golden_model(layout, "trained", "torch").info

    assert info.runtime == "openvino"
    assert replace(info, runtime="torch") == by_torch


def test_serving_a_converted_model_loads_neither_torch_nor_the_families_libraries() -> None:
    golden_model("openai", "trained", "openvino")  # converts it, if nobody has
    program = """
import sys
from pathlib import Path
from PIL import Image
from backends.embed import embed
from backends.folder import detect
from backends.replicas import load_replica
from backends.model import ModelOptions
options = ModelOptions(runtime="openvino", cache_dir=Path(sys.argv[2]))
model = load_replica(detect(Path(sys.argv[1])), options)
embed(model.towers["text"], ["a"])
embed(model.towers["image"], [Image.new("RGB", (64, 48))])
heavy = {"torch", "torchvision", "transformers", "open_clip", "sentence_transformers"}
print(sorted(heavy & set(sys.modules)), sys.modules["openvino_telemetry"])
"""
    answer = subprocess.run(
        [sys.executable, "-c", program, GOLDEN / "openai", CONVERTED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert answer.stdout.strip() == "[] None"


def test_what_was_described_is_read_as_it_was_written(tmp_path: Path) -> None:
    described = Description.read(converted(detect(GOLDEN / "openai"), OPENVINO))
    described.write(tmp_path)

    assert Description.read(tmp_path) == described


def test_what_differs_from_the_original_is_refused() -> None:
    original = golden_model("openai", "trained")
    vectors = embed_texts(original, ["a cat", "a dog"])
    compare("texts", vectors, vectors)
    with pytest.raises(ConversionError, match="texts differ from the original's: cosine"):
        compare("texts", vectors, vectors[::-1])
    with pytest.raises(ConversionError, match=r"lengths by 0\.001"):
        compare("texts", vectors, vectors * np.float32(1.001))


def test_the_parity_check_sees_a_wrong_recipe() -> None:
    """SigLIP 2's two modes: texts lower-cased and padded, or as they are."""
    trained = golden_model("siglip", "trained", "openvino")
    reference = golden_model("siglip", "reference")
    with pytest.raises(ConversionError, match="texts differ"):
        check_parity(reference, trained)


def test_a_folder_that_cannot_be_loaded_ends_with_a_sentence(tmp_path: Path) -> None:
    target = str(tmp_path / "x")
    job = {"root": "nowhere", "target": target, "text_mode": "trained", "trust": False}
    answer = subprocess.run(
        [sys.executable, "-m", "backends.conversion.job"],
        cwd=ROOT,
        input=json.dumps({**job, "content": "of nothing"}),
        capture_output=True,
        text=True,
        check=True,
    )

    assert "there is no folder" in json.loads(answer.stdout.splitlines()[-1])["error"]
    assert not (tmp_path / "x").exists()


def test_the_environment_needs_no_openvino(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module in ("core", "network", "runtime", "stages"):
        monkeypatch.delitem(sys.modules, f"backends.runtimes.openvino.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    import backends.runtimes.openvino

    monkeypatch.delattr(backends.runtimes.openvino, "runtime", raising=False)
    model = load_replica(detect(GOLDEN / "openai"), OPENVINO)

    assert model.info.runtime == "torch"
    assert "import of openvino halted" in caplog.text

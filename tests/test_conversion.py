"""A converted model is made once, proven, kept, and given up for torch where that fails."""

import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.convert.proof import compare, prove
from backends.folder import detect
from backends.load import load_replica
from backends.model import ModelOptions
from backends.openvino import fingerprint, store
from backends.openvino.store import (
    REFUSAL,
    Description,
    converted,
)
from errors import ConversionError
from tests.golden_cases import (
    EVERY_LAYOUT,
    GOLDEN,
    assert_same,
    embed_texts,
    golden_model,
    text_cases,
)
from tests.service import CONVERTED, ROOT

OPENVINO = ModelOptions(runtime="openvino", cache_dir=CONVERTED)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "openai", tmp_path / "models"))


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
from backends.load import load_replica
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


def test_a_change_of_the_model_is_noticed(model: Path) -> None:
    before = fingerprint.of_content(detect(model))
    assert before == fingerprint.of_content(detect(GOLDEN / "openai"))
    weights = model / "openai_clip/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    changed = fingerprint.of_content(detect(model))
    (model / "openai_clip_processor/more.txt").touch()

    assert len({before, changed, fingerprint.of_content(detect(model))}) == 3


def test_content_is_read_only_where_times_or_sizes_differ(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = converted(detect(GOLDEN / "openai"), OPENVINO)
    cache = tmp_path / "cache"
    shutil.copytree(golden, cache / golden.name)
    options = replace(OPENVINO, cache_dir=cache)
    for path in model.rglob("*"):
        os.utime(path, (1, 1))  # copied: the same content, at another time
    assert converted(detect(model), options) == cache / golden.name

    (cache / golden.name / "source.json").write_text(json.dumps(fingerprint.stamps(detect(model))))
    monkeypatch.delattr(fingerprint, "of_content")
    assert converted(detect(model), options) == cache / golden.name


def test_what_a_model_folder_brings_is_used_whatever_the_cache(model: Path, tmp_path: Path) -> None:
    golden = converted(detect(GOLDEN / "openai"), OPENVINO)
    shutil.copytree(golden, model / store.FOLDER / golden.name)
    options = replace(OPENVINO, cache_dir=tmp_path / "empty")

    assert converted(detect(model), options) == model / store.FOLDER / golden.name
    assert not (tmp_path / "empty").exists()


def test_a_new_version_deletes_what_the_old_one_made_of_the_same_model(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = model / "cache"
    options = replace(OPENVINO, cache_dir=cache)
    monkeypatch.setattr(store, "_convert", lambda *parts: parts[-1].mkdir())
    monkeypatch.setattr(fingerprint, "of_code", lambda: "old-code")
    old = converted(detect(model), options)
    other_model = cache / "openai-trained-old-code-0123456789abcdef"
    other_model.mkdir()
    monkeypatch.setattr(fingerprint, "of_code", lambda: "new-code")
    new = converted(detect(model), options)

    assert new.name == old.name.replace("old-code", "new-code")
    assert set(cache.iterdir()) == {new, other_model}


def test_a_new_version_that_cannot_convert_leaves_the_old_ones_work(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(OPENVINO, cache_dir=model / "cache")
    old = model / f"cache/openai-trained-old-code-{fingerprint.of_content(detect(model))[:16]}"
    old.mkdir(parents=True)

    def refuse(*parts: Path) -> None:
        parts[-1].mkdir()
        (parts[-1] / store.REFUSAL).write_text("it is of another kind")

    monkeypatch.setattr(store, "_convert", refuse)
    with pytest.raises(ConversionError, match="another kind"):
        converted(detect(model), options)

    assert old.is_dir()


def test_files_behind_links_and_files_that_nobody_can_read(tmp_path: Path) -> None:
    root = tmp_path / "models"
    shutil.copytree(GOLDEN / "openai", root)
    (root / "openai_clip").rename(tmp_path / "elsewhere")
    (root / "openai_clip").symlink_to(tmp_path / "elsewhere")
    before = fingerprint.of_content(detect(root))
    (tmp_path / "elsewhere/config.json").write_text("{}")
    assert fingerprint.of_content(detect(root)) != before

    notes = root / "openai_clip/notes.txt"
    notes.touch(mode=0)
    assert "openai_clip/notes.txt" in fingerprint.stamps(detect(root))
    assert fingerprint.of_content(detect(root)) != before


def test_conversions_that_were_killed_are_not_begun_for_ever(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As when the kernel kills the container, the mark stays: nothing runs that would take it."""
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    options = replace(OPENVINO, cache_dir=model / "cache")

    class KilledError(BaseException):
        pass

    def killed(*_: object) -> None:
        raise KilledError

    monkeypatch.setattr(store, "_convert", killed)
    for _ in range(2):
        with pytest.raises(KilledError):
            load_replica(detect(model), options)

    assert load_replica(detect(model), options).info.runtime == "torch"
    assert "2 conversions were killed, perhaps for want of memory" in caplog.text
    assert ".tries to try again" in caplog.text


@pytest.mark.parametrize(
    ("program", "said", "kept"),
    [
        ("print('no answer')", "the conversion ended without an answer", []),
        ("raise SystemExit('no memory')", "the conversion ended with 1: no memory", []),
        ("import os; os.kill(os.getpid(), 9)", "was killed by signal 9: is there", ["1"]),
        ("import time; time.sleep(60)", "the conversion did not end in 2 s", ["1"]),
    ],
)
def test_a_conversion_that_goes_wrong_in_any_way_leaves_it_to_torch(
    program: str,
    said: str,
    kept: list[str],
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(store, "_TIMEOUT_S", 2)
    run = subprocess.run

    def instead(_: object, **options: Any) -> object:
        return run([sys.executable, "-c", program], **options)

    monkeypatch.setattr(subprocess, "run", instead)
    served = load_replica(detect(model), replace(OPENVINO, cache_dir=model / "cache"))

    assert served.info.runtime == "torch"
    assert "Not served by OpenVINO but by torch, which is slower: " in caplog.text
    assert said in caplog.text
    assert [path.read_text() for path in model.glob("cache/*")] == kept


def test_what_was_described_is_read_as_it_was_written(tmp_path: Path) -> None:
    described = Description.read(converted(detect(GOLDEN / "openai"), OPENVINO))
    described.write(tmp_path)

    assert Description.read(tmp_path) == described


@pytest.mark.parametrize("obstacle", ["a file", "a folder that nobody may write"])
def test_where_nothing_can_be_kept_torch_serves_and_the_log_says_so(
    tmp_path: Path, obstacle: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    if obstacle == "a file":
        cache.touch()
    else:
        cache = Path("/proc/converted")  # root may write everywhere else
    options = replace(OPENVINO, cache_dir=cache)
    model = load_replica(detect(GOLDEN / "openai"), options)

    assert model.info.runtime == "torch"
    case = text_cases("openai", "trained")[0]
    assert_same(embed_texts(model, [case.content])[0], case)
    (warning,) = [one.message for one in caplog.records if one.levelno == logging.WARNING]
    assert "Not served by OpenVINO but by torch" in warning
    assert f"{cache} cannot be written" in warning
    assert "RUNTIME_CACHE_DIR" in warning


@pytest.mark.parametrize("part", ["image.bin", "text.xml", "tokenizer.json", "model.json"])
def test_a_converted_model_that_is_broken_is_named_and_torch_serves(
    part: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = converted(detect(GOLDEN / "openai"), OPENVINO)
    shutil.copytree(good, tmp_path / good.name)
    broken = tmp_path / good.name / part
    broken.write_bytes(broken.read_bytes()[:100])
    model = load_replica(detect(GOLDEN / "openai"), replace(OPENVINO, cache_dir=tmp_path))

    assert model.info.runtime == "torch"
    assert f"{tmp_path / good.name} cannot be loaded, delete it: " in caplog.text
    assert "Exception from" not in caplog.text


@pytest.fixture
def refused(tmp_path: Path) -> Path:
    """A model that no conversion can describe: its images are resized in a way of open_clip's."""
    root = Path(shutil.copytree(GOLDEN / "openclip", tmp_path / "refused"))
    path = root / "openclip/open_clip_config.json"
    config = json.loads(path.read_text())
    config["preprocess_cfg"]["resize_mode"] = "longest"
    path.write_text(json.dumps(config))
    return root


def test_a_refusal_is_kept_so_that_no_start_tries_again(
    refused: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = refused / "cache"
    leftover = cache / ".download-killed" / "openclip-trained-0"
    leftover.mkdir(parents=True)
    options = replace(OPENVINO, cache_dir=cache)
    for _ in range(2):
        assert load_replica(detect(refused), options).info.runtime == "torch"
    (made,) = cache.iterdir()

    assert {path.name for path in made.iterdir()} == {REFUSAL, "source.json"}
    assert caplog.text.count("by open_clip's mode 'longest'") == 2
    assert caplog.text.count("Converting") <= 1
    assert not leftover.exists()


def test_what_differs_from_the_original_is_refused() -> None:
    original = golden_model("openai", "trained")
    vectors = embed_texts(original, ["a cat", "a dog"])
    compare("texts", vectors, vectors)
    with pytest.raises(ConversionError, match="texts differ from the original's: cosine"):
        compare("texts", vectors, vectors[::-1])
    with pytest.raises(ConversionError, match=r"lengths by 0\.001"):
        compare("texts", vectors, vectors * np.float32(1.001))


def test_the_proof_sees_a_wrong_recipe() -> None:
    """SigLIP 2's two modes: texts lower-cased and padded, or as they are."""
    trained = golden_model("siglip", "trained", "openvino")
    reference = golden_model("siglip", "reference")
    with pytest.raises(ConversionError, match="texts differ"):
        prove(reference, trained)


def test_a_folder_that_cannot_be_loaded_ends_with_a_sentence(tmp_path: Path) -> None:
    job = {"root": "nowhere", "target": str(tmp_path / "x"), "text_mode": "trained", "trust": False}
    answer = subprocess.run(
        [sys.executable, "-m", "backends.convert.job"],
        cwd=ROOT,
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=True,
    )

    assert "No model in" in json.loads(answer.stdout.splitlines()[-1])["error"]
    assert not (tmp_path / "x").exists()


def test_the_environment_needs_no_openvino(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "backends.openvino.runtime")
    monkeypatch.setitem(sys.modules, "openvino", None)
    import backends.openvino

    monkeypatch.delattr(backends.openvino, "runtime")
    model = load_replica(detect(GOLDEN / "openai"), OPENVINO)

    assert model.info.runtime == "torch"
    assert "import of openvino halted" in caplog.text

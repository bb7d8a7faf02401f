"""The conversion cache: models are found again, converted once, or left to torch."""

import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends import load
from backends.conversion import conversion_cache, entries, fingerprint
from backends.conversion.conversion_cache import converted
from backends.conversion.description import Description, FailedConversion
from backends.folder import CONVERSIONS, ModelFolder, detect
from backends.identity import PREPROCESSING_VERSIONS, Identity
from backends.model import ModelOptions
from backends.replicas import load_replica
from config import Settings
from errors import ConversionError, ModelFolderError
from tests.golden_cases import GOLDEN, MODES, assert_same, embed_texts, text_cases
from tests.service import CONVERTED, ROOT

OPENVINO = ModelOptions(runtime="openvino", cache_dir=CONVERTED)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "openai", tmp_path / "models"))


def copy_of_golden(cache: Path) -> Path:
    golden = converted(detect(GOLDEN / "openai"), OPENVINO)
    return Path(shutil.copytree(golden, cache / golden.name))


def test_a_change_of_the_model_is_noticed(model: Path) -> None:
    before = fingerprint.digest_content(detect(model))
    assert before == fingerprint.digest_content(detect(GOLDEN / "openai"))
    weights = model / "openai_clip/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    changed = fingerprint.digest_content(detect(model))
    (model / "openai_clip_processor/more.txt").touch()

    assert len({before, changed, fingerprint.digest_content(detect(model))}) == 3


def test_content_is_read_only_where_times_or_sizes_differ(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = copy_of_golden(tmp_path / "cache")
    options = replace(OPENVINO, cache_dir=tmp_path / "cache")
    for path in model.rglob("*"):
        os.utime(path, (1, 1))  # copied: the same content, at another time
    assert converted(detect(model), options) == kept

    (kept / "source.json").write_text(json.dumps(fingerprint.stamps(detect(model))))
    monkeypatch.delattr(fingerprint, "digest_content")
    assert converted(detect(model), options) == kept


def test_what_a_model_folder_brings_is_used_whatever_the_cache(model: Path, tmp_path: Path) -> None:
    kept = copy_of_golden(model / CONVERSIONS)
    options = replace(OPENVINO, cache_dir=tmp_path / "empty")

    assert converted(detect(model), options) == kept
    assert not (tmp_path / "empty").exists()


def nothing_is_converted(*_: object) -> None:
    pytest.fail("it was converted again")


def test_a_new_recipe_converts_anew_and_deletes_what_the_old_one_made_of_the_same_model(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = model / "cache"
    options = replace(OPENVINO, cache_dir=cache)
    old = copy_of_golden(cache)
    other = shutil.copytree(old, cache / "of another model")
    description = Description.read(other)
    replace(description, identity=replace(description.identity, content="0" * 64)).write(other)
    monkeypatch.setitem(PREPROCESSING_VERSIONS, "openai", 2)
    monkeypatch.setattr(conversion_cache, "_convert", converted_by(recipe=2, like=old))
    new = converted(detect(model), options)

    assert new != old
    assert Description.read(new).identity.recipe == 2
    assert set(cache.iterdir()) == {new, other}


def converted_by(recipe: int, like: Path) -> Any:
    """Stand in for the process that converts: it makes what there is already, by a new recipe."""

    def convert(*parts: Path) -> None:
        shutil.copytree(like, parts[-1])
        description = Description.read(parts[-1])
        replace(description, identity=replace(description.identity, recipe=recipe)).write(parts[-1])

    return convert


def test_neither_code_nor_a_librarys_version_converts_anew(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = copy_of_golden(tmp_path / "cache")
    monkeypatch.setattr(fingerprint, "digest_code", lambda: "new code")
    monkeypatch.setattr(fingerprint, "version", lambda _library: "99")
    monkeypatch.setattr(conversion_cache, "_convert", nothing_is_converted)

    assert converted(detect(model), replace(OPENVINO, cache_dir=tmp_path / "cache")) == kept


def test_equal_text_modes_are_one_folder_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, reference = (
        converted(detect(GOLDEN / "openai"), replace(OPENVINO, text_mode=mode)) for mode in MODES
    )
    assert trained == reference
    for layout in ("siglip", "metaclip2"):
        trained, reference = (
            converted(detect(GOLDEN / layout), replace(OPENVINO, text_mode=mode)) for mode in MODES
        )
        assert trained != reference


def test_what_yesterdays_version_made_is_left_alone(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "cache/openai-any-0123abcd-0123456789abcdef"
    old.mkdir(parents=True)
    (old / "model.json").write_text('{"info": {}, "geometry": {}, "recipe": {}}')
    golden = converted(detect(GOLDEN / "openai"), OPENVINO)
    monkeypatch.setattr(conversion_cache, "_convert", converted_by(recipe=1, like=golden))
    made = converted(detect(model), replace(OPENVINO, cache_dir=tmp_path / "cache"))

    assert made != old
    assert old.is_dir()


def test_a_new_recipe_that_cannot_convert_leaves_the_old_ones_work(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(OPENVINO, cache_dir=model / "cache")
    old = copy_of_golden(model / "cache")
    monkeypatch.setitem(PREPROCESSING_VERSIONS, "openai", 2)
    content = fingerprint.digest_content(detect(model))

    def refuse(*parts: Path) -> None:
        parts[-1].mkdir()
        identity = Identity("openai", content, 2, ["trained"])
        FailedConversion(identity, "it is of another kind", fingerprint.digest_code()).write(
            parts[-1]
        )

    monkeypatch.setattr(conversion_cache, "_convert", refuse)
    with pytest.raises(ConversionError, match="another kind"):
        converted(detect(model), options)

    assert old.is_dir()


def test_what_was_refused_is_tried_again_by_another_version(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(OPENVINO, cache_dir=model / "cache")
    identity = Identity("openai", fingerprint.digest_content(detect(model)), 1, ["trained"])
    refused = model / "cache/refused"
    refused.mkdir(parents=True)
    FailedConversion(identity, "it is of another kind", fingerprint.digest_code()).write(refused)
    with pytest.raises(ConversionError, match="another kind"):
        converted(detect(model), options)

    golden = converted(detect(GOLDEN / "openai"), OPENVINO)
    monkeypatch.setattr(fingerprint, "digest_code", lambda: "another version")
    monkeypatch.setattr(conversion_cache, "_convert", converted_by(recipe=1, like=golden))
    assert Description.read(converted(detect(model), options)).identity.content == identity.content


def test_files_behind_links_and_files_that_nobody_can_read(tmp_path: Path) -> None:
    root = tmp_path / "models"
    shutil.copytree(GOLDEN / "openai", root)
    (root / "openai_clip").rename(tmp_path / "elsewhere")
    (root / "openai_clip").symlink_to(tmp_path / "elsewhere")
    before = fingerprint.digest_content(detect(root))
    (tmp_path / "elsewhere/config.json").write_text("{}")
    assert fingerprint.digest_content(detect(root)) != before

    notes = root / "openai_clip/notes.txt"
    notes.touch(mode=0)
    assert "openai_clip/notes.txt" in fingerprint.stamps(detect(root))
    assert fingerprint.digest_content(detect(root)) != before


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

    monkeypatch.setattr(conversion_cache, "_convert", killed)
    for _ in range(2):
        with pytest.raises(KilledError):
            load_replica(detect(model), options)

    assert load_replica(detect(model), options).info.runtime == "torch"
    assert "2 conversions were killed, perhaps as memory ran out" in caplog.text
    assert ".tries to try again" in caplog.text


@pytest.mark.parametrize(
    ("program", "said", "kept"),
    [
        ("print('no answer')", "the conversion ended without an answer", []),
        ("raise SystemExit('no memory')", "the conversion ended with 1: no memory", []),
        ("import os; os.kill(os.getpid(), 9)", "was killed by signal 9, perhaps as", ["1"]),
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
    monkeypatch.setattr(conversion_cache, "_TIMEOUT_S", 2)
    popen = subprocess.Popen

    def instead(_: object, **options: Any) -> object:
        return popen([sys.executable, "-c", program], **options)

    monkeypatch.setattr(subprocess, "Popen", instead)
    served = load_replica(detect(model), replace(OPENVINO, cache_dir=model / "cache"))

    assert served.info.runtime == "torch"
    assert "Not served by OpenVINO but by torch, which is slower: " in caplog.text
    assert said in caplog.text
    assert [path.read_text() for path in model.glob("cache/*")] == kept


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


@pytest.mark.parametrize("part", ["image.bin", "text.xml", "tokenizer.json"])
def test_a_converted_model_that_is_broken_is_named_and_torch_serves(
    part: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = copy_of_golden(tmp_path)
    broken = kept / part
    broken.write_bytes(broken.read_bytes()[:100])
    model = load_replica(detect(GOLDEN / "openai"), replace(OPENVINO, cache_dir=tmp_path))

    assert model.info.runtime == "torch"
    assert f"{kept} cannot be loaded, delete it: " in caplog.text
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


@pytest.mark.usefixtures("converting_here")
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

    assert {path.name for path in made.iterdir()} == {"refusal.json", "source.json"}
    assert caplog.text.count("by open_clip's mode 'longest'") == 2
    assert caplog.text.count("Converting") <= 1
    assert not leftover.exists()


def test_the_digest_of_the_code_covers_all_of_backends(tmp_path: Path) -> None:
    """So a model that was refused is tried again after a change of its family, too."""
    shutil.copytree(ROOT / "backends", tmp_path / "backends")
    shutil.copy(ROOT / "errors.py", tmp_path)
    program = "from backends.conversion.fingerprint import digest_code; print(digest_code())"

    def digest() -> str:
        command = [sys.executable, "-c", program]
        return subprocess.check_output(command, cwd=tmp_path, text=True)

    before = digest()
    with (tmp_path / "backends/families/siglip.py").open("a") as module:
        module.write("# changed\n")
    assert digest() != before


def test_models_with_equal_sizes_and_times_are_not_mistaken_in_a_cache_that_they_share(
    tmp_path: Path,
) -> None:
    """As two models of one architecture are, where a tool gives all files one time."""
    folders = [shutil.copytree(GOLDEN / "openai", tmp_path / name) for name in ("one", "other")]
    (weights,) = (folders[1] / "openai_clip").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    for path in tmp_path.rglob("*"):
        os.utime(path, (1, 1))
    kept = copy_of_golden(tmp_path / "cache")
    (kept / "source.json").write_text(json.dumps(fingerprint.stamps(detect(folders[0]))))
    options = replace(OPENVINO, cache_dir=tmp_path / "cache")

    assert converted(detect(folders[0]), options) == kept
    assert entries.known_content(detect(folders[1]), options) != (
        entries.known_content(detect(folders[0]), options)
    )
    assert not entries.is_converted(detect(folders[1]), options)


def test_a_cache_in_the_model_folder_is_its_own_however_its_path_is_written(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cache of its own, a model may have other inodes than at its conversion."""
    kept = copy_of_golden(model / CONVERSIONS)
    stamps = fingerprint.stamps(detect(model))
    source = {name: [*stamp[:2], 0, 0] for name, stamp in stamps.items()}
    (kept / "source.json").write_text(json.dumps(source))
    options = replace(OPENVINO, cache_dir=model / "openai_clip" / ".." / CONVERSIONS)
    monkeypatch.delattr(fingerprint, "digest_content")

    assert converted(detect(model), options).resolve() == kept.resolve()
    assert len(list(entries._all(detect(model), options))) == 1


def test_a_models_content_is_read_once_in_a_process(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    digest_content = fingerprint.digest_content

    def counted(folder: ModelFolder) -> str:
        read.append(folder.root)
        return digest_content(folder)

    monkeypatch.setattr(fingerprint, "digest_content", counted)
    options = replace(OPENVINO, cache_dir=tmp_path / "cache")
    first = [entries.known_content(detect(model), options) for _ in range(3)]
    (model / "openai_clip_processor/more.txt").touch()
    changed = entries.known_content(detect(model), options)

    assert len(read) == 2
    assert len(set(first)) == 1
    assert changed != first[0]


def test_a_conversion_ahead_of_a_load_reaches_no_hub(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(load, "converted", lambda *_: seen.append(os.environ.get("HF_HUB_OFFLINE")))
    load.convert_ahead(Settings(models_dir=model))

    assert seen == ["1"]


def test_a_load_that_may_not_convert_ends_at_once(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not even wait for another process that converts."""
    monkeypatch.setattr(conversion_cache, "staging", lambda *_, **__: pytest.fail("it converts"))
    options = ModelOptions(runtime="openvino", cache_dir=tmp_path / "cache", converts=False)
    with pytest.raises(ConversionError, match="no request waits for a conversion"):
        conversion_cache.converted(detect(model), options)
    monkeypatch.setattr(conversion_cache, "find_spec", lambda _: None)
    with pytest.raises(ModelFolderError, match=r"run download\.py --convert"):
        conversion_cache.converted(detect(model), options)

    assert not (tmp_path / "cache").exists()

"""`python app.py --check` and `--help`: their output, the faults they find, and their speed."""

import json
import re
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from backends.check import faults
from backends.folder import detect
from config import VERSION, Settings
from errors import ModelFolderError
from tests.golden_cases import LAYOUTS
from tests.golden_texts import NETWORKS
from tests.service import LAUNCHER, ROOT, SERVING_ONLY, run_to_end

OF_NETWORKS = [*(f"golden/{name}" for name in LAYOUTS), *(f"golden_text/{one}" for one in NETWORKS)]
# Of other types of models only the headers are read, and not which layers there must be.
OF_KNOWN_LAYERS = [layout for layout in OF_NETWORKS if layout != "golden/qwen3_vl"]
ALL = [*OF_NETWORKS, "golden_text/model2vec", "golden_text/onnx"]
WITH_WEIGHTS = [layout for layout in ALL if layout != "golden_text/onnx"]
WITH_TOKENIZER = [layout for layout in ALL if layout != "golden/openclip"]  # it brings its own
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
LAYER = re.compile(r"^(?!decoder).*(layers?|resblocks|block)\.1\.(?!DenseRelu|layer_norm\.)")


def check(*arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    return run_to_end([*LAUNCHER, *arguments], PYTHONPATH=SERVING_ONLY, **settings)


@pytest.fixture
def copied(tmp_path: Path, layout: str) -> Path:
    return Path(shutil.copytree(ROOT / "tests" / layout, tmp_path / "models", symlinks=True))


def files(root: Path, *patterns: str) -> list[Path]:
    return [path for pattern in patterns for path in root.rglob(pattern)]


@pytest.mark.parametrize("layout", ALL)
def test_a_folder_of_every_layout_is_fine(layout: str) -> None:
    assert faults(detect(ROOT / "tests" / layout)) == []


@pytest.mark.parametrize("folder", ["demo/models", "demo/models/converted/demo"])
def test_the_demo_model_and_its_conversion_are_fine_without_torch(folder: str) -> None:
    answer = check("--check", MODELS_DIR=ROOT / folder)

    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("OK: the settings, and the ")
    assert answer.stderr == ""


@pytest.mark.parametrize("layout", ALL)
def test_a_pointer_in_place_of_the_weights_is_recognised(copied: Path) -> None:
    for path in files(copied, "*.safetensors", "*.onnx"):
        path.write_text(POINTER)

    with pytest.raises(ModelFolderError, match="is a pointer of Git LFS and not the file itself"):
        detect(copied)


@pytest.mark.parametrize("layout", WITH_TOKENIZER)
def test_a_pointer_in_place_of_a_tokenizer_is_recognised(copied: Path) -> None:
    for path in files(copied, *TOKENIZERS):
        path.write_text(POINTER)

    with pytest.raises(ModelFolderError, match="is a pointer of Git LFS and not the file itself"):
        detect(copied)


@pytest.mark.parametrize("layout", WITH_WEIGHTS)
def test_weights_that_are_cut_short_are_reported(copied: Path) -> None:
    for path in files(copied, "model.safetensors", "open_clip_model.safetensors"):
        path.write_bytes(path.read_bytes()[:-10])

    assert any("where its header says" in one for one in faults(detect(copied)))


@pytest.mark.parametrize("layout", WITH_WEIGHTS)
def test_weights_that_are_missing_are_reported(copied: Path) -> None:
    for path in files(copied, "model.safetensors", "open_clip_model.safetensors"):
        path.unlink()

    assert any(re.search(r"holds no weights|is missing", one) for one in faults(detect(copied)))


def changed(copied: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> list[str]:
    """Return the output after the weights of all networks were changed."""
    for path in files(copied, "model.safetensors", "open_clip_model.safetensors"):
        save_file(change(load_file(path)), path)
    return faults(detect(copied))


@pytest.mark.parametrize("layout", OF_KNOWN_LAYERS)
def test_a_layer_that_is_missing_is_reported(copied: Path) -> None:
    reported = changed(copied, lambda w: {name: w[name] for name in w if not LAYER.search(name)})

    assert re.search(r"model\.safetensors does not fit: [\w.]+\.1 is missing", reported[0])


@pytest.mark.parametrize("layout", OF_KNOWN_LAYERS)
def test_a_weight_of_one_layer_that_is_missing_is_reported(copied: Path) -> None:
    def without(weights: dict[str, Any]) -> dict[str, Any]:
        one = next((name for name in sorted(weights) if LAYER.search(name)), "")
        return {name: weights[name] for name in weights if name != one}

    assert re.search(r"\.1\.[\w.]+ is missing", changed(copied, without)[0])


@pytest.mark.parametrize("layout", OF_KNOWN_LAYERS)
def test_a_weight_of_another_shape_is_reported(copied: Path) -> None:
    def larger(weights: dict[str, Any]) -> dict[str, Any]:
        found = [name for name in sorted(weights) if LAYER.search(name)]
        return {**weights, **{one: torch.cat([weights[one], weights[one]]) for one in found[:1]}}

    assert re.search(r"\.1\.[\w.]+ is \[\d.*\], not \[\d", changed(copied, larger)[0])


@pytest.mark.parametrize("layout", ["golden_text/bert", "golden_text/distilbert", "golden/openai"])
def test_an_embedding_that_is_not_the_configs_is_reported(copied: Path) -> None:
    names = ("word_embeddings.weight", "token_embedding.weight")

    def fewer(weights: dict[str, Any]) -> dict[str, Any]:
        return {name: w[:-1].clone() if name.endswith(names) else w for name, w in weights.items()}

    assert "where the config says [" in changed(copied, fewer)[0]


@pytest.mark.parametrize("layout", OF_KNOWN_LAYERS)
def test_a_prefix_of_all_names_is_none_of_its_faults(copied: Path) -> None:
    """As data-parallel training saves them; a start decides what it makes of it."""
    assert changed(copied, lambda w: {f"module.{name}": w[name] for name in w}) == []


@pytest.mark.parametrize("layout", WITH_TOKENIZER)
def test_a_tokenizer_that_is_missing_is_reported(copied: Path) -> None:
    for path in files(copied, *TOKENIZERS):
        path.unlink()

    assert any("holds no tokenizer" in one for one in faults(detect(copied)))


@pytest.mark.parametrize("layout", WITH_TOKENIZER)
def test_a_vocabulary_of_special_tokens_alone_is_reported(copied: Path) -> None:
    special = {"[PAD]": 0, "[UNK]": 1}
    added = [{"id": number, "content": token, "special": True} for token, number in special.items()]
    content = {"added_tokens": added, "model": {"type": "WordPiece", "vocab": special}}
    for path in files(copied, *TOKENIZERS):
        path.unlink()
        (path.parent / "tokenizer.json").write_text(json.dumps(content))

    assert any("a vocabulary of special tokens alone" in one for one in faults(detect(copied)))


@pytest.mark.parametrize("layout", ["golden_text/bert"])
@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", "{", "config.json is broken: "),
        ("tokenizer.json", "{", "tokenizer.json is no tokenizer: "),
        ("model.safetensors", "x" * 100, "model.safetensors is no complete safetensors file"),
        ("model.safetensors", "\x02" + "\0" * 7 + "[]", "model.safetensors is broken"),
    ],
)
def test_a_broken_file_is_named(copied: Path, file: str, content: str, said: str) -> None:
    (copied / "model" / file).write_text(content)

    (reported,) = faults(detect(copied))
    assert str(copied / "model") in reported
    assert said in reported


@pytest.mark.parametrize("layout", ["golden_text/sentence_transformers"])
@pytest.mark.parametrize("modules", ["[{}]", "[1]", "{}", '[{"path": 1, "type": "a"}]'])
def test_a_broken_list_of_modules_is_reported_and_no_traceback(copied: Path, modules: str) -> None:
    (listed,) = files(copied, "modules.json")
    listed.write_text(modules)

    (reported,) = faults(detect(copied))
    assert "is broken: " in reported


@pytest.mark.parametrize("part", ["text.xml", "image.bin", "tokenizer.json"])
def test_a_part_of_a_converted_model_that_is_missing_is_reported(tmp_path: Path, part: str) -> None:
    shutil.copytree(ROOT / "demo/models/converted", tmp_path / "converted")
    (tmp_path / "converted/demo" / part).unlink()

    (reported,) = faults(detect(tmp_path))
    assert part.removesuffix(".json") in reported


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"PORT": "many"}, "PORT: a whole number, such as 8080, and not 'many'"),
        ({"IMAGE_FORMATS": "JPG"}, "IMAGE_FORMATS: no format is called JPG"),
        ({"MODELS_DIR": "nowhere"}, "MODELS_DIR: there is no folder"),
        ({"MODELS_DIR": "tests"}, "No model in"),
        ({"RUNTIME": "torch"}, "RUNTIME=torch needs torch, which is not installed"),
        ({"ENABLE_CUDA": "1"}, "ENABLE_CUDA=1 needs torch, which is not installed"),
        (
            {"MODELS_DIR": "demo/models/converted/demo", "RUNTIME": "torch"},
            "RUNTIME=torch needs the original",
        ),
    ],
)
def test_what_keeps_a_start_from_working_ends_a_check_with_1(
    settings: dict[str, str], said: str
) -> None:
    answer = check("--check", **{"MODELS_DIR": "demo/models", **settings})

    assert answer.returncode == 1
    assert answer.stderr.startswith("Cannot start: ")
    assert said in answer.stderr
    assert answer.stdout == ""


def test_a_check_warns_of_a_misspelt_setting_and_ends_with_0() -> None:
    answer = check("--check", MODELS_DIR="demo/models", MAX_BATCHSIZE="8")

    assert answer.returncode == 0
    assert answer.stderr == (
        "Warning: MAX_BATCHSIZE is no setting, and does nothing: is MAX_BATCH_SIZE meant?\n"
    )


def test_a_check_of_a_large_model_takes_less_than_two_seconds(tmp_path: Path) -> None:
    """XLM-RoBERTa large by its numbers: 390 tensors in 2.2 GB, 250,000 words in 17 MB."""
    model = tmp_path / "model"
    shutil.copytree(ROOT / "tests/golden_text/xlm_roberta/model", model)
    sizes = {"vocab_size": 250_002, "hidden_size": 1024, "num_hidden_layers": 24}
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **sizes}))
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = [[f"a word of some letters {n}", -1.5] for n in range(250_002)]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer, indent=2))
    shapes = {"embeddings.word_embeddings.weight": [250_002, 1024]} | {
        f"encoder.layer.{layer}.output.{part}.weight": [1024, 1024]
        for layer in range(24)
        for part in map(str, range(16))
    }
    header, end = {}, 0
    for name, (rows, width) in shapes.items():
        start, end = end, end + 4 * rows * width
        header[name] = {"dtype": "F32", "shape": [rows, width], "data_offsets": [start, end]}
    with (model / "model.safetensors").open("wb") as file:
        written = json.dumps(header).encode()
        file.write(len(written).to_bytes(8, "little") + written)
        file.truncate(8 + len(written) + end)  # without weights on the disk

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = check("--check", MODELS_DIR=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)

    assert answer.returncode == 0, answer.stderr
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used_s < 2


def test_help_prints_every_setting_with_its_default_and_meaning() -> None:
    answer = check("--help")

    assert answer.returncode == 0
    for name in Settings.model_fields:
        assert re.search(rf"^{name.upper()}(=.+)?\n    \S", answer.stdout, re.MULTILINE)
    assert "\nMAX_BATCH_SIZE=16\n    most items in one forward pass" in answer.stdout
    assert "`" not in answer.stdout
    assert "](" not in answer.stdout


def test_the_version_is_reported() -> None:
    assert check("--version").stdout == f"{VERSION}\n"


@pytest.mark.parametrize("argument", ["--port=1", "serve", "--chek"])
def test_any_other_argument_is_an_error(argument: str) -> None:
    answer = check(argument, MODELS_DIR="nowhere")

    assert answer.returncode == 2
    assert answer.stderr.startswith("usage: app.py ")

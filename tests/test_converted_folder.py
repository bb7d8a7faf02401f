"""A converted model's folder serves alone: without the original, and without torch."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backends.check import faults
from backends.conversion.conversion_cache import converted
from backends.folder import CONVERSIONS, FORMATS, detect
from backends.model import EncodeParams, ModelOptions, TextMode
from backends.replicas import load_replica
from backends.text_folder import is_served_as_it_is
from errors import ModelFolderError
from tests.golden_cases import (
    EVERY_LAYOUT,
    GOLDEN,
    MODES,
    Case,
    assert_same,
    embed_images,
    embed_texts,
    image_cases,
    text_cases,
)
from tests.golden_texts import GOLDEN_TEXTS, text_model
from tests.golden_texts import text_cases as encoder_cases
from tests.image_files import READER
from tests.service import CONVERTED, ROOT, SERVING_ONLY, environment

OPENVINO = ModelOptions(runtime="openvino")
KEPT = replace(OPENVINO, cache_dir=CONVERTED)
_EMBED = """
import json, sys
from backends.embed import embed
from backends.load import load_model
from config import Settings, read
from errors import StartupError
try:
    (model,) = load_model(read(Settings))
except StartupError as error:
    sys.exit(f"{type(error).__name__}: {error}")
vectors = embed(model.towers["text"], json.loads(sys.argv[1]))
print(json.dumps([model.info.family, model.info.vector_space, vectors.tolist()]))
"""


def kept(layout: str, mode: TextMode = "trained") -> Path:
    options = ModelOptions(runtime="openvino", text_mode=mode, cache_dir=CONVERTED)
    return converted(detect(GOLDEN / layout), options)


def start_without_torch(
    root: Path, *texts: str, **settings: object
) -> subprocess.CompletedProcess[str]:
    own = {"PYTHONPATH": SERVING_ONLY, "RUNTIME_CACHE_DIR": "", "MODELS_DIR": root, **settings}
    return subprocess.run(
        [sys.executable, "-c", _EMBED, json.dumps(texts)],
        cwd=ROOT,
        env=environment(**own),
        capture_output=True,
        text=True,
        check=False,
    )


@EVERY_LAYOUT
def test_a_converted_folder_alone_gives_the_recorded_vectors(layout: str, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(kept(layout), tmp_path / "models"))
    (alone / "source.json").unlink()
    model = load_replica(detect(alone), OPENVINO)

    for text in text_cases(layout, "trained"):
        assert_same(embed_texts(model, [text.content])[0], text)
    for case in image_cases(layout):
        image = READER.open((GOLDEN / "images" / case.content).read_bytes())
        assert_same(embed_images(model, [image])[0], case)


@EVERY_LAYOUT
def test_a_converted_folder_alone_is_checked_whole(layout: str, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(kept(layout), tmp_path / "models"))
    assert faults(detect(alone)) == []

    networks = sorted(alone.glob("*.xml"))
    for network in networks:
        network.unlink()
    reported = faults(detect(alone))
    assert len(networks) == len(
        {network.name for network in networks if network.stem in str(reported)}
    )


@pytest.mark.parametrize("layout", ["openclip", "siglip1", "sentence_transformers_multilingual"])
def test_it_serves_where_torch_is_not_installed(layout: str, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(kept(layout), tmp_path / "models"))
    cases = text_cases(layout, "trained")
    answer = start_without_torch(alone, *(case.content for case in cases))

    assert answer.returncode == 0, answer.stderr
    family, space, vectors = json.loads(answer.stdout.splitlines()[-1])
    for vector, case in zip(vectors, cases, strict=True):
        assert_same(np.array(vector), case)
    original = load_replica(detect(GOLDEN / layout), ModelOptions()).info
    assert (family, space) == (original.family, original.vector_space)


@pytest.mark.parametrize(
    "name",
    ["bert_unigram", "dpr_question", "sentence_transformers_qwen3", "flan_t5", "model2vec", "onnx"],
)
def test_models_of_texts_only_serve_where_torch_is_not_installed(name: str, tmp_path: Path) -> None:
    original = text_model(name, "openvino")
    root = GOLDEN_TEXTS / name
    if not is_served_as_it_is(detect(root)):
        path = converted(detect(root), replace(KEPT, text_mode="reference"))
        root = Path(shutil.copytree(path, tmp_path / "models"))
    cases = [case for case in encoder_cases(name) if case.is_plain and case.vector.any()]
    answer = start_without_torch(root, *(case.text for case in cases), TEXT_MODE="reference")

    assert answer.returncode == 0, answer.stderr
    family, space, vectors = json.loads(answer.stdout.splitlines()[-1])
    for vector, case in zip(vectors, cases, strict=True):
        assert_same(np.array(vector), Case(case.text, case.vector))
    assert (family, space) == (original.info.family, original.info.vector_space)


def test_a_converted_model_alone_keeps_its_prefixes(tmp_path: Path) -> None:
    for name, reads_the_task in [("prefixes", True), ("bert", False)]:
        path = converted(detect(GOLDEN_TEXTS / name), KEPT)
        alone = shutil.copytree(path, tmp_path / name)
        model = load_replica(detect(Path(alone)), replace(OPENVINO, prefixes=not reads_the_task))
        reduced = model.towers["text"].processor.resolve(EncodeParams(task="query"))
        assert bool(reduced.task) == reads_the_task


@pytest.mark.parametrize("touched", [False, True])
def test_beside_its_original_it_is_used_without_torch_too(touched: bool, tmp_path: Path) -> None:
    root = Path(shutil.copytree(GOLDEN / "openai", tmp_path / "models"))
    folder = shutil.copytree(kept("openai"), root / CONVERSIONS / "some name")
    if touched:  # only their content says that these files are the same
        (root / "openai_clip/config.json").touch()
    else:
        (folder / "source.json").unlink()
    answer = start_without_torch(root, "a cat")

    assert answer.returncode == 0, answer.stderr


def test_a_folder_that_lost_its_original_serves_the_conversion_in_it(tmp_path: Path) -> None:
    shutil.copytree(kept("siglip", "reference"), tmp_path / CONVERSIONS / "reference")
    shutil.copytree(kept("siglip", "trained"), tmp_path / CONVERSIONS / "trained")
    for mode in MODES:
        model = load_replica(detect(tmp_path), ModelOptions(text_mode=mode, runtime="openvino"))
        case = text_cases("siglip", mode)[0]
        assert_same(embed_texts(model, [case.content])[0], case)


def test_what_was_never_converted_needs_torch_and_says_so(tmp_path: Path) -> None:
    root = Path(shutil.copytree(GOLDEN / "openai", tmp_path / "models"))
    answer = start_without_torch(root)

    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    sentence = answer.stderr.splitlines()[-1]
    assert sentence.startswith(f"ModelFolderError: The openai model in {root} is not converted")
    assert "run download.py --convert in the custom image" in sentence


@pytest.mark.parametrize("setting", [{"RUNTIME": "torch"}, {"ENABLE_CUDA": "1"}])
@pytest.mark.parametrize("original", [True, False])
def test_what_needs_torch_says_so(setting: dict[str, str], original: bool) -> None:
    root = GOLDEN / "openai" if original else kept("openai")
    answer = start_without_torch(root, **setting)

    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    sentence = answer.stderr.splitlines()[-1]
    reported = (
        "needs torch, which cannot be imported",
        "and not the original, which RUNTIME=torch",
    )
    assert any(words in sentence for words in reported)
    assert sentence.endswith("the image with torch and the original, whose tag ends in -cuda")


def test_a_converted_model_alone_is_for_cpus_and_openvino() -> None:
    with pytest.raises(ModelFolderError, match="not the original, which RUNTIME=torch"):
        load_replica(detect(kept("openai")), ModelOptions(runtime="torch"))


def test_a_converted_model_for_another_text_mode_says_so() -> None:
    with pytest.raises(ModelFolderError, match="for another TEXT_MODE than reference"):
        load_replica(
            detect(kept("siglip", "trained")),
            ModelOptions(text_mode="reference", runtime="openvino"),
        )


def test_of_several_models_none_is_guessed(tmp_path: Path) -> None:
    for layout in ("openai", "openclip"):
        shutil.copytree(kept(layout), tmp_path / CONVERSIONS / layout)
    with pytest.raises(ModelFolderError, match="name one of openai, openclip in converted/"):
        load_replica(detect(tmp_path), OPENVINO)


def test_a_broken_one_without_its_original_ends_with_a_sentence(tmp_path: Path) -> None:
    alone = Path(shutil.copytree(kept("openai"), tmp_path / "models"))
    (alone / "text.bin").write_bytes(b"")
    with pytest.raises(ModelFolderError, match="cannot be loaded, delete it"):
        load_replica(detect(alone), OPENVINO)


@pytest.mark.parametrize("where", [".", f"{CONVERSIONS}/openai"])
def test_another_form_without_the_original_names_what_converts(tmp_path: Path, where: str) -> None:
    folder = tmp_path / where
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(json.dumps({"format": max(FORMATS.values()) + 1}))
    with pytest.raises(ModelFolderError, match=r"does not read.*download\.py --convert"):
        detect(tmp_path)


def test_another_form_beside_the_original_is_no_fault(tmp_path: Path) -> None:
    root = Path(shutil.copytree(GOLDEN / "openai", tmp_path / "models"))
    (root / "model.json").write_text("[]")

    assert detect(root).family == "openai"

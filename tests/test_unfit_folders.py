"""Folders whose files are not what they seem: reported in a sentence, before anything is loaded."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backends.conversion.conversion_cache import converted
from backends.folder import detect
from backends.load import options_for
from backends.model import ModelOptions
from backends.replicas import load_replica
from backends.text_folder import DECODERS, ENCODERS, detect_kind, why_no_encoder
from config import Settings
from errors import DownloadError, ModelFolderError
from fetch.hub import Snapshot, Wanted
from fetch.plan import Plan, _lay_out_texts
from tests.golden_cases import GOLDEN
from tests.golden_texts import GOLDEN_TEXTS
from tests.service import CONVERTED, ROOT, SERVING_ONLY, environment

POINTER = b"""version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 437955512
"""
OPENVINO = ModelOptions(runtime="openvino", cache_dir=CONVERTED)


_LOAD = """
from backends.load import load_model
from config import Settings, read
import sys
from errors import StartupError
try:
    load_model(read(Settings))
except StartupError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def start(
    root: Path, libraries: Path | str = "", before: str = ""
) -> subprocess.CompletedProcess[str]:
    program = f"{before}\n{_LOAD}"
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment(PYTHONPATH=libraries, MODELS_DIR=root, RUNTIME_CACHE_DIR=""),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("folder", "file"),
    [
        (GOLDEN / "openai", "openai_clip/model.safetensors"),
        (GOLDEN / "openai", "openai_clip_processor/tokenizer.json"),
        (GOLDEN / "openclip", "openclip/open_clip_model.safetensors"),
        (GOLDEN / "siglip1", "siglip/models--*/snapshots/*/spiece.model"),
        (GOLDEN / "modernvbert", "colpali_engine_model/models--Mod*/snapshots/*/model.safetensors"),
        (GOLDEN / "sentence_transformers", "clip/model.safetensors"),
        (GOLDEN_TEXTS / "bert", "model/model.safetensors"),
        (GOLDEN_TEXTS / "model2vec", "model/models--*/snapshots/*/tokenizer.json"),
        (GOLDEN_TEXTS / "onnx", "model/model_quantized.onnx"),
    ],
)
def test_a_pointer_of_git_lfs_is_named_within_a_second(
    folder: Path, file: str, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(folder, tmp_path / "models"))
    (path,) = root.glob(file)
    path.write_bytes(POINTER)

    started_s = time.perf_counter()
    with pytest.raises(
        ModelFolderError, match="is a pointer of Git LFS and not the file"
    ) as reported:
        detect(root)

    assert time.perf_counter() - started_s < 1
    assert str(path) in str(reported.value)


def test_a_pointer_in_a_converted_model_is_named(tmp_path: Path) -> None:
    root = Path(shutil.copytree(converted(detect(GOLDEN / "openai"), OPENVINO), tmp_path / "m"))
    (root / "text.bin").write_bytes(POINTER)

    with pytest.raises(ModelFolderError, match=r"text\.bin is a pointer of Git LFS"):
        detect(root)


def test_a_pointer_in_place_of_what_nothing_reads_is_no_fault(tmp_path: Path) -> None:
    root = Path(shutil.copytree(GOLDEN_TEXTS / "bert", tmp_path / "models"))
    (root / "model/onnx").mkdir()
    for name in ("pytorch_model.bin", "rust_model.ot", "onnx/model.onnx", "onnx/config.json"):
        (root / "model" / name).write_bytes(POINTER)

    assert detect(root).family == "text"


@pytest.mark.parametrize("file", ["converted", "original", "onnx"])
def test_without_openvino_it_is_openvino_that_is_missed(file: str) -> None:
    root = {
        "converted": converted(detect(GOLDEN / "openai"), OPENVINO),
        "original": GOLDEN / "openai",
        "onnx": GOLDEN_TEXTS / "onnx",
    }[file]
    answer = start(root, SERVING_ONLY, "import sys; sys.modules['openvino'] = None")

    assert answer.returncode == 1
    sentence = answer.stderr.splitlines()[-1]
    assert sentence.startswith("DeviceUnavailableError: this model needs OpenVINO, which cannot be")
    assert sentence.endswith("install requirements-serve.txt")
    assert "torch" not in sentence


def described(root: Path, **changes: object) -> Path:
    shutil.copytree(GOLDEN_TEXTS / "bert", root)
    path = root / "model/config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return root


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"architectures": [f"Bert{task}"]}, f"Bert{task}")
        for task in ("ForTokenClassification", "ForQuestionAnswering", "ForCausalLM")
    ]
    + [
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "a model of type gpt2"),
        ({"model_type": "vit", "architectures": None}, "a model of type vit"),
        ({"model_type": None, "architectures": None}, "a model of type unknown"),
    ],
)
@pytest.mark.parametrize("form", ["encoder", "onnx_runtime", "onnx"])
def test_what_is_no_encoder_is_refused_with_its_type_and_the_list(
    changes: dict[str, object], found: str, form: str, tmp_path: Path
) -> None:
    root = described(tmp_path / "models", **changes)
    if form == "onnx_runtime":
        (root / "model/onnx_runtime").write_text("true")
    if form == "onnx":
        shutil.copy(GOLDEN_TEXTS / "onnx/model/model_quantized.onnx", root / "model")

    with pytest.raises(ModelFolderError, match=f"holds {found}, which does not embed") as reported:
        options_for(detect(root), Settings())
    assert "bert, big_bird" in str(reported.value)
    assert "\n" not in str(reported.value)


def test_a_reranker_by_an_onnx_file_alone_is_refused(tmp_path: Path) -> None:
    root = described(tmp_path / "models", architectures=["BertForSequenceClassification"])
    assert detect_kind(detect(root)) == "reranker"

    shutil.copy(GOLDEN_TEXTS / "onnx/model/model_quantized.onnx", root / "model")
    with pytest.raises(ModelFolderError, match="holds BertForSequenceClassification, which does"):
        options_for(detect(root), Settings())


def test_it_is_refused_before_a_conversion_with_and_without_torch(tmp_path: Path) -> None:
    root = described(tmp_path / "models", architectures=["BertForTokenClassification"])
    for libraries in ("", SERVING_ONLY):
        answer = start(root, libraries)
        assert answer.returncode == 1
        sentence = answer.stderr.splitlines()[-1]
        assert "holds BertForTokenClassification, which does not embed texts" in sentence
        assert "Converting" not in answer.stderr


@pytest.mark.parametrize("architectures", [None, [], ["BertForMaskedLM"], ["BertModel"]])
def test_a_head_that_is_left_off_and_no_architecture_are_accepted(
    architectures: list[str] | None, tmp_path: Path
) -> None:
    root = described(tmp_path / "models", architectures=architectures)

    assert detect_kind(detect(root)) == "encoder"
    assert load_replica(detect(root), ModelOptions()).info.family == "BERT"


def test_code_of_its_own_may_be_of_any_type() -> None:
    own = {"model_type": "NewModel", "auto_map": {"AutoModel": "modeling.NewModel"}}

    assert why_no_encoder(own, Path()) is None
    assert why_no_encoder({**own, "architectures": ["NewForTokenClassification"]}, Path())


def test_every_type_of_the_list_is_one_of_transformers() -> None:
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    assert {*ENCODERS, *DECODERS} <= set(MODEL_MAPPING_NAMES)


def test_a_download_of_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    root = described(tmp_path / "hub", architectures=["BertForTokenClassification"])
    model = Wanted("org/tagger", "MODEL_NAME")

    snapshot = Snapshot("org/tagger", "0" * 40, root / "model")

    with pytest.raises(DownloadError, match=r"^org/tagger is BertForTokenClassification, which"):
        _lay_out_texts(Plan("text", {"model": model}), snapshot, tmp_path / "model")

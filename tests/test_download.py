"""download.py as people run it: a process, against a hub on loopback with small models.

Most of these processes are forks of one that has torch; a few are begun as people begin them.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from backends.embed import score
from backends.folder import detect
from backends.load import options_for
from backends.model import Model, ModelOptions, TextMode
from backends.replicas import load_replica
from config import DownloadSettings, Settings
from download import main
from errors import DownloadError, ModelFolderError
from fetch import catalogue
from fetch.layouts import LayoutJob, make_layout
from fetch.plan import plan
from fetch.record import is_whole, write_record
from tests import preloaded
from tests.golden_cases import (
    GOLDEN,
    MODES,
    Case,
    assert_same,
    embed_images,
    embed_texts,
    image_cases,
    text_cases,
)
from tests.golden_rerankers import GOLDEN_RERANKERS, pair_cases, reranker
from tests.golden_texts import GOLDEN_TEXTS, vector_of
from tests.golden_texts import text_cases as encoder_cases
from tests.hub_models import DECOY, golden_of_rerankers, golden_of_texts, openai, small_hub
from tests.hub_models import texts as texts_of
from tests.hub_server import TOKEN, Hub, Repository, of_bytes, serving
from tests.image_files import READER
from tests.service import ROOT, environment, running

Answer = subprocess.CompletedProcess[str]

OPENAI = dict.fromkeys(["CLIP_MODEL_NAME", "TEXT_MODEL_NAME"], "openai/clip-vit-base-patch16")
PAIR = {"clip_model_name": "org/clip", "text_model_name": "org/clip"}
# Whose vectors a tag's model answers here: its layout's of the golden data.
GOLDEN_OF = {
    "sentence-transformers-clip-ViT-B-32": "sentence_transformers_0_CLIPModel",
    "sentence-transformers-clip-ViT-B-32-multilingual-v1": "sentence_transformers_multilingual",
    "openai-clip-vit-base-patch16": "openai",
    "google-siglip-so400m-patch16-256-i18n": "siglip1",
    "google-siglip2-so400m-patch16-384": "siglip",
    "google-siglip2-so400m-patch16-512": "siglip",
    "facebook-metaclip-2-worldwide-b32-384": "metaclip2",
    "ModernVBERT-modernvbert-embed": "modernvbert",
    "Qwen-Qwen3-VL-Embedding-2B": "qwen3_vl",
    "Qwen-Qwen3-VL-Embedding-8B": "qwen3_vl",
    "google-siglip2-base-patch16-naflex": "siglip2_naflex",
    "google-siglip2-so400m-patch16-naflex": "siglip2_naflex",
}
TEXTS_OF = {
    tag: golden_of_texts()[model.variables["MODEL_NAME"]]
    for tag, model in catalogue.load().items()
    if "MODEL_NAME" in model.variables and model.dimensions
}
RERANKERS = {
    tag: model.variables["MODEL_NAME"]
    for tag, model in catalogue.load().items()
    if not model.dimensions
}
AS_ONNX = [tag for tag in TEXTS_OF if tag.endswith("-onnx")]  # read by a recipe of their own
# Checkpoints of hundreds of megabytes, and twins: each way to fetch and save is in every run.
LONG = {*TEXTS_OF, *RERANKERS} - {
    "distilbert-base-uncased",
    "sentence-transformers-all-minilm-l6-v2",
    "minishlab-potion-base-8m",
    "mixedbread-ai-mxbai-embed-large-v1",
    "facebook-dpr-ctx_encoder-single-nq-base",
    "sentence-transformers-all-minilm-l6-v2-onnx",
    "cross-encoder-ms-marco-MiniLM-L-6-v2",
    "mixedbread-ai-mxbai-rerank-xsmall-v1",
    "alibaba-nlp-gte-reranker-modernbert-base",
} | {
    "ViT-B-16-laion2b_s34b_b88k",
    "ViT-B-32-quickgelu-laion400m_e32",
    "google-siglip2-so400m-patch16-384",
    "google-siglip2-so400m-patch16-512",
    "google-siglip2-so400m-patch16-naflex",
    "Qwen-Qwen3-VL-Embedding-8B",
}
# Not downloaded here: other towers of OpenCLIP, of up to a billion weights, which are fetched as
# those above are (tests/test_openclip_towers.py); and the other layout of a name that stands for
# its -onnx image.
ELSEWHERE = {
    tag
    for tag, model in catalogue.load().items()
    if model.family == "OpenCLIP" and "laion" not in tag
} | {"baai-bge-m3"}
# Downloaded by `make run` in place of `--model` alone.
MADE = "facebook-metaclip-2-worldwide-b32-384"
TAGS = list(catalogue.load())
EVERY_TAG = [
    pytest.param(tag, marks=[pytest.mark.long] if tag in LONG else [], id=tag)
    for tag in TAGS
    if tag != MADE and tag not in ELSEWHERE
]


def surroundings(hub_url: str, **variables: object) -> dict[str, str]:
    """An environment with a hub; the tests' own has none. What comes is not converted, in most."""
    online = {"HF_HUB_OFFLINE": 0, "TRANSFORMERS_OFFLINE": 0, "HF_HUB_DISABLE_PROGRESS_BARS": 0}
    return environment(**{"HF_ENDPOINT": hub_url, "RUNTIME": "torch", **online, **variables})


def run(hub_url: str, *arguments: str, **variables: object) -> Answer:
    return preloaded.run(("download.py", *arguments), surroundings(hub_url, **variables))


def load(root: Path, mode: TextMode = "trained", trust: bool = False) -> Model:
    return load_replica(detect(root), ModelOptions(text_mode=mode, trust_remote_code=trust))


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def assert_failed(answer: Answer, sentence: str) -> None:
    assert answer.returncode == 1, answer.stderr
    assert sentence in answer.stderr
    assert answer.stderr.strip().splitlines()[-1].startswith("Fatal: ")
    assert "Traceback" not in answer.stderr


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with serving(small_hub(tmp_path_factory.mktemp("hub"))) as hub:
        yield hub


@pytest.fixture
def openai_hub() -> Iterator[Hub]:
    """A hub of its own for a test that disturbs it."""
    with serving(Hub({OPENAI["CLIP_MODEL_NAME"]: openai()})) as hub:
        yield hub


# What the variables mean.


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (PAIR, "sentence_transformers"),
        ({"clip_model_name": "a", "text_model_name": "b"}, "sentence_transformers"),
        ({**PAIR, "clip_model_type": "OpenAI"}, "openai"),
        (dict.fromkeys(PAIR, "openai/clip-vit-base-patch16"), "openai"),
        (dict.fromkeys(PAIR, "facebook/metaclip-2-worldwide-b32-384"), "openai"),
        ({**PAIR, "open_clip_model_name": "ViT-B-16"}, "sentence_transformers"),
        ({**PAIR, "open_clip_pretrained": "openai"}, "sentence_transformers"),
        ({**PAIR, "open_clip_model_name": "x", "open_clip_pretrained": "y"}, "openclip"),
        (
            {
                "siglip_model_name": "google/siglip",
                "open_clip_model_name": "x",
                "open_clip_pretrained": "y",
            },
            "siglip",
        ),
        ({"colpali_engine_model_name": "a", "siglip_model_name": "b"}, "modernvbert"),
        ({"qwen_engine_model_name": "a", "siglip_model_name": "b"}, "siglip"),
        ({"qwen_engine_model_name": "a", **PAIR}, "qwen3_vl"),
        ({"model_name": "a"}, "text"),
        ({"model_name": "a", **PAIR}, "sentence_transformers"),
        ({"model_name": "a", "siglip_model_name": "b"}, "siglip"),
    ],
)
def test_the_precedence_is_that_of_the_reference(names: dict[str, str], family: str) -> None:
    assert plan(DownloadSettings.model_validate(names)).family == family


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({}, "TEXT_MODEL_NAME is required"),
        ({"TEXT_MODEL_NAME": "a"}, "CLIP_MODEL_NAME is required"),
        ({"TEXT_MODEL_NAME": "", "CLIP_MODEL_NAME": "a"}, "TEXT_MODEL_NAME is required"),
        ({"TEXT_MODEL_NAME": "a", "CLIP_MODEL_NAME": "openai/b"}, "must be equal"),
        ({"COLPALI_ENGINE_MODEL_NAME": "a", **OPENAI}, "no model a (COLPALI_ENGINE_MODEL_NAME)"),
        ({"SIGLIP_MODEL_NAME": "google/nothing"}, "the hub knows no model google/nothing"),
        ({"SIGLIP_MODEL_NAME": "a/b/c"}, "a/b/c (SIGLIP_MODEL_NAME) cannot be a model's name"),
        (
            {**OPENAI, "CLIP_MODEL_REVISION": "v7"},
            "openai/clip-vit-base-patch16 (CLIP_MODEL_NAME) has no revision v7",
        ),
        (
            {**OPENAI, "HF_TOKEN": "hf_wrong"},
            "the hub refuses the token in HF_TOKEN",
        ),
        ({**OPENAI, "HF_HUB_OFFLINE": "1"}, "while HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"),
        ({**OPENAI, "HF_ENDPOINT": "http://127.0.0.1:1"}, "no network, the hub cannot be reached"),
    ],
)
def test_what_cannot_be_had_ends_with_one_sentence_and_leaves_nothing(
    hub: Hub, tmp_path: Path, variables: dict[str, str], sentence: str
) -> None:
    answer = run(hub.url, **{"MODELS_DIR": tmp_path / "models", **variables})

    assert_failed(answer, sentence)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("ViT-B-16-quickgelu", "; ViT-B-16-quickgelu goes with openai, dfn2b, metaclip_400m, "),
        ("ViT-B16", "; close to it: ViT-B-16 with laion2b_s34b_b88k, "),
    ],
)
def test_an_unknown_openclip_pair_is_reported_what_comes_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, sentence: str
) -> None:
    monkeypatch.setenv("OPEN_CLIP_MODEL_NAME", name)
    monkeypatch.setenv("OPEN_CLIP_PRETRAINED", "laion2b_s34b_b88k")
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "models"))
    with pytest.raises(SystemExit) as end:  # in this process, which has open_clip already
        main([])

    assert str(end.value).startswith("Fatal: open_clip knows no pair")
    assert sentence in str(end.value)
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    (source,) = (GOLDEN / "siglip/siglip").glob("models--*/snapshots/*")
    job = LayoutJob(
        "openai", str(tmp_path), {"model": str(source)}, str(tmp_path / "no"), trust=False
    )

    with pytest.raises(DownloadError, match="of type siglip, where one of type clip or metaclip"):
        make_layout(job)


def test_an_unknown_tag_lists_the_known_ones(hub: Hub, tmp_path: Path) -> None:
    answer = run(hub.url, "--model", "ViT-B-16-laion2b", MODELS_DIR=tmp_path / "models")

    assert_failed(answer, "did you mean ViT-B-16-laion2b_s34b_b88k?")
    assert all(tag in answer.stderr for tag in TAGS)


def test_a_hub_that_is_ill_ends_with_its_status(openai_hub: Hub, tmp_path: Path) -> None:
    openai_hub.status = 503

    assert_failed(run(openai_hub.url, MODELS_DIR=tmp_path, **OPENAI), "the hub answered 503")


# Every model of the catalogue.


@pytest.fixture(scope="module")
def downloads(
    hub: Hub, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[str, Future[tuple[Path, Answer]]]]:
    """Start the download of every tag that a test asks for, two at a time."""
    root = tmp_path_factory.mktemp("models")
    asked = {item.callspec.params["tag"] for item in _parametrised(request.session.items)}

    def download(tag: str) -> tuple[Path, Answer]:
        return root / tag, run(hub.url, "--model", tag, MODELS_DIR=root / tag)

    with ThreadPoolExecutor(2) as pool:
        yield {tag: pool.submit(download, tag) for tag in TAGS if tag in asked}
    shutil.rmtree(root)


def _parametrised(items: list[pytest.Item]) -> list[pytest.Function]:
    functions = [item for item in items if isinstance(item, pytest.Function)]
    return [f for f in functions if "downloads" in f.fixturenames and hasattr(f, "callspec")]


@pytest.mark.parametrize("tag", EVERY_TAG)
def test_every_model_of_the_catalogue_is_downloaded_and_embeds_without_network(
    downloads: dict[str, Future[tuple[Path, Answer]]], tag: str
) -> None:
    root, answer = downloads[tag].result()

    assert answer.returncode == 0, answer.stderr
    assert "Fetching" in answer.stderr  # the progress bar
    model = load(root)
    assert model.info.family == catalogue.find(tag).family
    if tag in AS_ONNX:
        assert not model.towers["text"].processor.reading  # neither sentences nor prefixes
        assert_unit_length(model, TEXTS_OF[tag])
    elif tag in TEXTS_OF:
        assert_golden_texts(root, TEXTS_OF[tag])
    elif tag in RERANKERS:
        assert_golden_scores(root, golden_of_rerankers().get(RERANKERS[tag]))
    elif tag in GOLDEN_OF:
        assert_golden(root, GOLDEN_OF[tag])
    else:
        assert_embeds(model, catalogue.find(tag).dimensions)


def assert_golden(root: Path, layout: str, trust: bool = False) -> None:
    """Assert that a download changed no vector: those of the model that the hub holds."""
    models = {mode: load(root, mode, trust) for mode in MODES}
    for mode, model in models.items():
        for case in text_cases(layout, mode):
            assert_same(embed_texts(model, [case.content])[0], case)
    for case in image_cases(layout.replace("multilingual", "0_CLIPModel")):
        raw = (GOLDEN / "images" / case.content).read_bytes()
        assert_same(embed_images(models["trained"], [READER.open(raw)])[0], case)


def assert_golden_texts(root: Path, golden: str) -> None:
    folder = detect(root)
    settings = Settings(runtime="torch", text_mode="reference")
    model = load_replica(folder, options_for(folder, settings))
    for case in encoder_cases(golden):
        if case.vector.any():
            assert_same(vector_of(model, case), Case(case.text, case.vector))


def assert_golden_scores(root: Path, golden: str | None) -> None:
    """Assert that a download changed no score, in either text mode; of no golden one, that it has.

    A model's activation is where the hub's files name it, so both modes must find it.
    """
    cases = pair_cases(golden or "bert")
    for mode in MODES:
        scores = score(load(root, mode), [case.pair for case in cases])
        if golden:
            expected = score(reranker(golden, "torch", mode), [case.pair for case in cases])
            np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)
        assert np.ptp(scores) > 0


def assert_unit_length(model: Model, golden: str) -> None:
    texts = [case.text for case in encoder_cases(golden)]
    np.testing.assert_allclose(np.linalg.norm(embed_texts(model, texts), axis=1), 1, atol=1e-5)


def assert_embeds(model: Model, dimensions: int) -> None:
    colours = [Image.new("RGB", (60, 40), colour) for colour in ("red", "navy")]
    for vectors in (
        embed_texts(model, ["a cat", "two dogs on a mat"]),
        embed_images(model, colours),
    ):
        assert vectors.shape == (2, dimensions)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert not np.allclose(vectors[0], vectors[1], atol=1e-5)


def test_no_file_is_fetched_that_is_not_needed(
    hub: Hub, downloads: dict[str, Future[tuple[Path, Answer]]]
) -> None:
    for download in downloads.values():
        download.result()
    needless = {
        f"{name}/resolve/{hub.commit_of(name)}/{path}"
        for name, repository in hub.repositories.items()
        for path, file in repository.files.items()
        if file is DECOY
    }

    assert needless
    assert not needless & {asked.partition(" /")[2] for asked in hub.asked}


def test_prefixes_that_were_asked_for_are_kept_with_the_model(tmp_path: Path) -> None:
    with serving(Hub({"org/e5": texts_of("prefixes")})) as hub:
        answer = run(
            hub.url, MODELS_DIR=tmp_path, MODEL_NAME="org/e5", USE_QUERY_PASSAGE_PREFIXES="true"
        )

    assert answer.returncode == 0, answer.stderr
    assert_golden_texts(tmp_path, "prefixes")


@pytest.mark.parametrize(
    ("older", "same"),
    [
        ({"prefixes": "False"}, True),
        ({"prefixes": "True"}, False),  # its place has changed
        ({"MODEL_NAME": "org/other@"}, False),
        ({"trust_remote_code": "true"}, False),
    ],
)
def test_what_an_older_version_downloaded_is_not_downloaded_again(
    older: dict[str, str], same: bool, tmp_path: Path
) -> None:
    settings = DownloadSettings(model_name="org/model", clip_model_name="", text_model_name="")
    request = plan(settings).request("")
    markers = ("use_query_passage_prefixes",)  # the older version's request had none
    before = {key: value for key, value in request.items() if key not in markers} | older
    write_record(tmp_path, before, {})

    assert is_whole(tmp_path, request) == same


def test_a_text_model_in_a_folder_may_stand_where_a_name_is_expected(tmp_path: Path) -> None:
    names = {"MODEL_NAME": GOLDEN_TEXTS / "roberta/model", "MODELS_DIR": tmp_path}

    answer = run("http://127.0.0.1:1", **names)

    assert answer.returncode == 0, answer.stderr
    assert_golden_texts(tmp_path, "roberta")


@pytest.mark.parametrize(
    "switch", ["ONNX_RUNTIME", "USE_SENTENCE_TRANSFORMERS_VECTORIZER", "USE_QUERY_PASSAGE_PREFIXES"]
)
def test_a_reranker_is_known_by_its_configuration_whatever_is_asked_of_embedders(
    switch: str, tmp_path: Path
) -> None:
    source = GOLDEN_RERANKERS / "bert_new_config/model"

    answer = run("http://127.0.0.1:1", MODEL_NAME=source, MODELS_DIR=tmp_path, **{switch: "true"})

    assert answer.returncode == 0, answer.stderr
    assert f"The model is in {tmp_path}: BERT, scores of pairs" in answer.stderr
    assert_golden_scores(tmp_path, "bert_new_config")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("labels", "it has 3 labels, so it classifies pairs and gives no single score"),
        ("head", "its weights lack classifier.bias, classifier.weight"),
    ],
)
def test_what_gives_no_meaningful_score_is_not_kept(
    damage: str, sentence: str, tmp_path: Path
) -> None:
    name = "bert_3_labels" if damage == "labels" else "bert"
    shutil.copytree(GOLDEN_RERANKERS / name / "model", tmp_path / "source")
    weights = load_file(tmp_path / "source/model.safetensors")
    if damage == "head":
        weights = {name: one for name, one in weights.items() if not name.startswith("classifier")}
    save_file(weights, tmp_path / "source/model.safetensors", {"format": "pt"})

    answer = run(
        "http://127.0.0.1:1", MODEL_NAME=tmp_path / "source", MODELS_DIR=tmp_path / "models"
    )

    assert_failed(answer, sentence)
    assert not (tmp_path / "models").exists()


def test_the_documented_two_lines_for_a_model_of_texts(hub: Hub, tmp_path: Path) -> None:
    """`RUN MODEL_NAME=distilroberta-base ./download.py`, in the image's working directory."""
    answer = run_by_its_first_line(tmp_path, hub.url, MODEL_NAME="distilroberta-base")

    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "models/model/config.json").is_file()
    assert_golden_texts(tmp_path / "models", "roberta")


def test_an_encoder_stays_a_sentence_transformers_model_where_that_is_asked_for(
    tmp_path: Path,
) -> None:
    with serving(Hub({"org/e5": texts_of("sentence_transformers_prefixes")})) as hub:
        answer = run(
            hub.url,
            MODELS_DIR=tmp_path,
            MODEL_NAME="org/e5",
            USE_SENTENCE_TRANSFORMERS_VECTORIZER="true",
            USE_QUERY_PASSAGE_PREFIXES="true",
        )

    assert answer.returncode == 0, answer.stderr
    assert_golden_texts(tmp_path, "sentence_transformers_prefixes")


def test_make_run_downloads_a_tag_and_serves_it(hub: Hub, tmp_path: Path) -> None:
    for name in ("Makefile", "download.py", "app.py", "fetch", "errors.py"):
        (tmp_path / name).symlink_to(ROOT / name)  # models/<tag> belongs to the working directory
    command = ["make", "-C", str(tmp_path), "run", f"MODEL={MADE}", "PORT={port}"]
    command += ["-o", ".venv/models", f"VENV={Path(sys.executable).parent}"]
    variables = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": 0, "TRANSFORMERS_OFFLINE": 0}
    with running(tmp_path / "log", command, **variables) as service:
        status, answer = service.vectorize(texts=["a cat"])
        assert (status, len(answer["textVectors"][0])) == (200, 48)
        assert service.request("GET", "/meta")[1]["service"]["family"] == "MetaCLIP 2"

    assert_golden(tmp_path / "models" / MADE, "metaclip2")


# What a folder holds afterwards.


def test_without_arguments_the_environment_names_the_model(openai_hub: Hub, tmp_path: Path) -> None:
    """A gated model at a branch; the token is written nowhere."""
    repository = openai_hub.repositories[OPENAI["CLIP_MODEL_NAME"]]
    repository.gated = True
    repository.branches.add("v1")
    home = tmp_path / "home"
    variables = {**OPENAI, "CLIP_MODEL_REVISION": "v1", "TRUST_REMOTE_CODE": "yes", "HF_HOME": home}
    without = run(openai_hub.url, MODELS_DIR=tmp_path / "models", **variables)
    assert_failed(without, "is gated: accept its terms")
    assert "HF_TOKEN" in without.stderr
    assert not (tmp_path / "models").exists()

    answer = run_by_its_first_line(tmp_path, openai_hub.url, HF_TOKEN=TOKEN, **variables)
    assert answer.returncode == 0, answer.stderr
    parts = {path.name for path in (tmp_path / "models").iterdir()}
    assert parts == {"openai_clip", "openai_clip_processor", "trust_remote_code", "download.json"}
    assert (tmp_path / "models/trust_remote_code").read_text() == "yes"  # raw, and off
    assert "GET /api/models/openai/clip-vit-base-patch16/revision/v1" in openai_hub.asked

    assert openai_hub.tokens == {TOKEN}
    assert TOKEN not in answer.stderr + answer.stdout
    assert not any(TOKEN.encode() in raw for raw in content(tmp_path).values())


def test_the_model_is_converted_once_for_the_runtime(openai_hub: Hub, tmp_path: Path) -> None:
    variables = {"MODELS_DIR": tmp_path, "RUNTIME": "openvino", "RUNTIME_CACHE_DIR": "", **OPENAI}
    answer = run(openai_hub.url, **variables)
    assert answer.returncode == 0, answer.stderr
    assert "Converted in" in answer.stderr
    (made,) = (tmp_path / "converted").iterdir()
    model = load_replica(detect(tmp_path), ModelOptions(runtime="openvino"))
    assert model.info.runtime == "openvino"
    for case in text_cases("openai", "trained"):
        assert_same(embed_texts(model, [case.content])[0], case)
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in made.iterdir())  # for any user

    before = content(tmp_path)
    again = run(openai_hub.url, **variables)
    prepared = run("http://127.0.0.1:1", "--convert", **variables)  # a model that was copied there
    assert (again.returncode, prepared.returncode) == (0, 0)
    assert "Convert" not in again.stderr + prepared.stderr
    assert content(tmp_path) == before


def test_a_model_that_cannot_be_kept_is_there_all_the_same(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "openai", tmp_path, dirs_exist_ok=True)
    variables = {"MODELS_DIR": tmp_path, "RUNTIME": "openvino", "RUNTIME_CACHE_DIR": "/proc/none"}
    answer = run("http://127.0.0.1:1", "--convert", **variables)

    assert answer.returncode == 0, answer.stderr
    assert "torch will serve it, slower: /proc/none cannot be written" in answer.stderr


def test_there_must_be_a_model_to_convert(tmp_path: Path) -> None:
    answer = run("http://127.0.0.1:1", "--convert", MODELS_DIR=tmp_path, RUNTIME="openvino")

    assert_failed(answer, "No model in")


def run_by_its_first_line(folder: Path, hub_url: str, **variables: object) -> Answer:
    """Run it as `RUN ./download.py` does, in that working directory."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [ROOT / "download.py"],
        cwd=folder,
        env=surroundings(hub_url, PATH=path, **variables),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.long
def test_a_path_may_stand_where_a_name_is_expected(tmp_path: Path) -> None:
    source = str(GOLDEN / "siglip1/siglip")
    shutil.copytree(source, tmp_path / "source")
    (processor,) = (tmp_path / "source").glob("models--*/snapshots/*")
    shutil.copytree(processor, tmp_path / "source", dirs_exist_ok=True)
    shutil.rmtree(processor.parents[1])
    before = content(tmp_path / "source")
    answer = run(
        "http://127.0.0.1:1",
        SIGLIP_MODEL_NAME=tmp_path / "source",
        MODELS_DIR=tmp_path / "models",
    )

    assert answer.returncode == 0, answer.stderr
    assert_same(
        embed_texts(load(tmp_path / "models"), ["a cat"])[0],
        replace(
            text_cases("siglip1", "trained")[0],
            vector=embed_texts(load(GOLDEN / "siglip1"), ["a cat"])[0],
        ),
    )
    assert content(tmp_path / "source") == before


def test_a_folder_of_another_family_is_left_alone(hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "siglip", tmp_path, dirs_exist_ok=True)
    before = content(tmp_path)

    assert_failed(run(hub.url, MODELS_DIR=tmp_path, **OPENAI), "already holds another family")
    assert content(tmp_path) == before


# What breaks on the way.


@pytest.mark.parametrize("there", ["nothing", "a model"])
def test_a_killed_download_changes_nothing(openai_hub: Hub, tmp_path: Path, there: str) -> None:
    if there == "a model":
        shutil.copytree(GOLDEN / "openai", tmp_path, dirs_exist_ok=True)
    before = content(tmp_path)
    leftover = kill_in_the_middle(openai_hub, tmp_path)

    assert content(leftover)  # it was in the middle
    whole = {name: raw for name, raw in content(tmp_path).items() if leftover.name not in name}
    assert whole == before
    if there == "nothing":
        with pytest.raises(ModelFolderError, match="No model in"):
            detect(tmp_path)


def test_the_next_download_cleans_up_and_replaces_a_model_of_the_same_family(
    openai_hub: Hub, tmp_path: Path
) -> None:
    shutil.copytree(GOLDEN / "metaclip2", tmp_path, dirs_exist_ok=True)
    (tmp_path / "notes.txt").write_text("mine")
    leftover = kill_in_the_middle(openai_hub, tmp_path)
    openai_hub.stalls_in = None
    assert run(openai_hub.url, MODELS_DIR=tmp_path, **OPENAI).returncode == 0

    assert not leftover.exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert_golden(tmp_path, "openai")
    again = run("http://127.0.0.1:1", MODELS_DIR=tmp_path, **OPENAI)
    assert (again.returncode, again.stderr) == (0, f"The model is already in {tmp_path}\n")


def kill_in_the_middle(hub: Hub, root: Path) -> Path:
    """Kill a download while the weights come, and return the folder that it left."""
    hub.stalls_in = "pytorch_model.bin"
    process = subprocess.Popen(
        [sys.executable, ROOT / "download.py"],
        env=surroundings(hub.url, MODELS_DIR=root, **OPENAI),
        stderr=subprocess.DEVNULL,
    )
    assert hub.stalled.wait(60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (leftover,) = root.glob(".download-*")
    return leftover


@pytest.mark.parametrize("room", ["too little for the files", "too little to save them"])
def test_a_full_disk_ends_with_one_sentence_and_leaves_nothing(
    hub: Hub, tmp_path: Path, room: str
) -> None:
    size_kb = 500 if room == "too little for the files" else 1200  # the files have 800
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "none", tmp_path],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("only root can make a small disk to fill")
    try:
        answer = run(hub.url, MODELS_DIR=tmp_path, **OPENAI)
        left = list(tmp_path.iterdir())
    finally:
        subprocess.run(["umount", tmp_path], check=True)

    assert_failed(answer, "the disk is full")
    assert left == []


def test_two_downloads_do_not_write_into_one_folder(hub: Hub, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        answer = run(hub.url, MODELS_DIR=tmp_path, **OPENAI)
    finally:
        os.close(descriptor)

    assert_failed(answer, "another download is writing")


@pytest.mark.long
@pytest.mark.parametrize("trust", ["true", "false"])
def test_code_that_a_model_borrows_from_another_comes_along_if_it_is_trusted(
    tmp_path: Path, trust: str
) -> None:
    text = Repository.of_folders(GOLDEN / "sentence_transformers_multilingual/text")
    modules = b"".join(text.files["modules.json"].read())
    borrowed = modules.replace(b"sentence_transformers.models.Pooling", b"org/code--ours.Ours")
    assert borrowed != modules
    text.files["modules.json"] = of_bytes(borrowed)
    code = Repository(
        {"ours.py": of_bytes(b"from sentence_transformers.models import Pooling as Ours\n")}
    )
    clip = Repository.of_folders(GOLDEN / "sentence_transformers/clip")
    names = {"CLIP_MODEL_NAME": "org/clip", "TEXT_MODEL_NAME": "org/text"}
    with serving(Hub({"org/clip": clip, "org/text": text, "org/code": code})) as hub:
        answer = run(hub.url, MODELS_DIR=tmp_path, TRUST_REMOTE_CODE=trust, **names)

    if trust == "true":
        assert answer.returncode == 0, answer.stderr
        assert_golden(tmp_path, "sentence_transformers_multilingual", trust=True)
    else:
        assert_failed(answer, "runs with TRUST_REMOTE_CODE=1 only")
        assert not list(tmp_path.iterdir())

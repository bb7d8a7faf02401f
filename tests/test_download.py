"""download.py as people run it: a process, against a hub on loopback with small models."""

import fcntl
import json
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
import open_clip
import pytest
from PIL import Image

import catalogue
from config import DownloadSettings
from download import check_pair, plan
from inference.backends import load_backend
from inference.backends.base import BackendOptions, EmbeddingBackend, TextMode
from inference.errors import DownloadError, ModelFolderError
from inference.images import ImageLimits, open_image
from inference.model_folder import detect
from tests.golden_cases import GOLDEN, MODES, assert_same, image_cases, text_cases
from tests.hub_models import DECOY, openai, siglip, small_hub
from tests.hub_server import TOKEN, Hub, Repository, serving
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
}
# Checkpoints of hundreds of megabytes, and a twin: one OpenCLIP and one SigLIP 2 are in every run.
LONG = {
    "ViT-B-16-laion2b_s34b_b88k",
    "ViT-B-32-quickgelu-laion400m_e32",
    "google-siglip2-so400m-patch16-512",
}
TAGS = [tag for tag, model in catalogue.load().items() if not model.planned]
EVERY_TAG = [
    pytest.param(tag, marks=[pytest.mark.long] if tag in LONG else [], id=tag) for tag in TAGS
]


def surroundings(hub_url: str, **variables: object) -> dict[str, str]:
    """An environment with a hub; the tests' own has none."""
    online = {"HF_HUB_OFFLINE": 0, "TRANSFORMERS_OFFLINE": 0, "HF_HUB_DISABLE_PROGRESS_BARS": 0}
    return environment(HF_ENDPOINT=hub_url, **online, **variables)


def run(hub_url: str, *arguments: str, **variables: object) -> Answer:
    return subprocess.run(
        [sys.executable, ROOT / "download.py", *arguments],
        env=surroundings(hub_url, **variables),
        capture_output=True,
        text=True,
        check=False,
    )


def load(root: Path, mode: TextMode = "trained") -> EmbeddingBackend:
    return load_backend(detect(root), BackendOptions(text_mode=mode))


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
        ({"COLPALI_ENGINE_MODEL_NAME": "a", **OPENAI}, "ModernVBERT is planned, not yet supported"),
        (
            {"OPEN_CLIP_MODEL_NAME": "ViT-B-16-quickgelu", "OPEN_CLIP_PRETRAINED": "laion"},
            "ViT-B-16-quickgelu goes with openai, dfn2b, metaclip_400m",
        ),
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
        (
            {"CLIP_MODEL_TYPE": "openai", **dict.fromkeys(OPENAI, "sentence-transformers/clip-x")},
            "is a model of type siglip, where one of type clip or metaclip_2 is needed",
        ),
    ],
)
def test_what_cannot_be_had_ends_with_one_sentence_and_leaves_nothing(
    hub: Hub, tmp_path: Path, variables: dict[str, str], sentence: str
) -> None:
    hub.repositories["sentence-transformers/clip-x"] = siglip("siglip")
    answer = run(hub.url, **{"MODELS_DIR": tmp_path / "models", **variables})

    assert_failed(answer, sentence)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_architecture_is_told_what_comes_close() -> None:
    with pytest.raises(DownloadError, match="close to it: ViT-B-16 with laion2b_s34b_b88k, "):
        check_pair("ViT-B16", "laion2b_s34b_b88k", open_clip.list_pretrained())


def test_an_unknown_tag_lists_the_known_ones(hub: Hub, tmp_path: Path) -> None:
    answer = run(hub.url, "--model", "ViT-B-16", MODELS_DIR=tmp_path / "models")

    assert_failed(answer, "did you mean ViT-B-16-laion2b_s34b_b88k?")
    assert all(tag in answer.stderr for tag in TAGS)


def test_a_planned_tag_is_refused(hub: Hub) -> None:
    assert_failed(run(hub.url, "--model", "ModernVBERT-modernvbert-embed"), "planned, not yet")


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
    assert load(root).info.family == catalogue.find(tag).family
    if tag in GOLDEN_OF:
        assert_golden(root, GOLDEN_OF[tag])
    else:
        assert_embeds(load(root), catalogue.find(tag).dimensions)


def assert_golden(root: Path, layout: str) -> None:
    """Assert that a download changed no vector: those of the model that the hub holds."""
    for mode in MODES:
        backend = load(root, mode)
        for case in text_cases(layout, mode):
            assert_same(backend.encode_text([case.content])[0], case)
    backend = load(root)
    for case in image_cases(layout.replace("multilingual", "0_CLIPModel")):
        raw = (GOLDEN / "images" / case.content).read_bytes()
        pixels = backend.preprocess(open_image(raw, ImageLimits(max_pixels=1_000_000)))
        assert_same(backend.encode_image([pixels])[0], case)


def assert_embeds(backend: EmbeddingBackend, dimensions: int) -> None:
    colours = [Image.new("RGB", (60, 40), colour) for colour in ("red", "navy")]
    for vectors in (
        backend.encode_text(["a cat", "two dogs on a mat"]),
        backend.encode_image([backend.preprocess(image) for image in colours]),
    ):
        assert vectors.shape == (2, dimensions)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert not np.allclose(*vectors, atol=1e-5)


@pytest.mark.parametrize("tag", ["openai-clip-vit-base-patch16"])
def test_a_second_run_returns_at_once_and_mends_what_was_damaged(
    hub: Hub, downloads: dict[str, Future[tuple[Path, Answer]]], tag: str
) -> None:
    root, _ = downloads[tag].result()
    before = content(root)
    again = run("http://127.0.0.1:1", "--model", tag, MODELS_DIR=root)
    assert (again.returncode, again.stderr) == (0, f"The model is already in {root}\n")

    weights = root / "openai_clip/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert run(hub.url, "--model", tag, MODELS_DIR=root).returncode == 0
    assert content(root) == before


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


def test_make_run_downloads_a_tag_and_serves_it(hub: Hub, tmp_path: Path) -> None:
    tag = "facebook-metaclip-2-worldwide-b32-384"
    for name in ("Makefile", "download.py", "app.py"):
        (tmp_path / name).symlink_to(ROOT / name)  # models/<tag> belongs to the working directory
    command = ["make", "-C", str(tmp_path), "run", f"MODEL={tag}", "PORT={port}"]
    command += ["-o", ".venv/service", f"VENV={Path(sys.executable).parent}"]
    variables = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": 0, "TRANSFORMERS_OFFLINE": 0}
    with running(tmp_path / "log", command, **variables) as service:
        status, answer = service.vectorize(texts=["a cat"])
        assert (status, len(answer["textVectors"][0])) == (200, 48)
        assert service.request("GET", "/meta")[1]["service"]["family"] == "MetaCLIP 2"

    assert detect(tmp_path / "models" / tag).family == "openai"


# What a folder holds afterwards.


def test_without_arguments_the_environment_names_the_model(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["openai/clip-vit-base-patch16"].branches.add("v1")
    variables = {**OPENAI, "CLIP_MODEL_REVISION": "v1", "TRUST_REMOTE_CODE": "yes"}
    answer = subprocess.run(
        [ROOT / "download.py"],  # by its first line, as `RUN ./download.py` starts it
        cwd=tmp_path,
        env={
            **surroundings(hub.url, **variables),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
    )

    assert answer.returncode == 0, answer.stderr
    parts = {path.name for path in (tmp_path / "models").iterdir()}
    assert parts == {"openai_clip", "openai_clip_processor", "trust_remote_code", "download.json"}
    assert (tmp_path / "models/trust_remote_code").read_text() == "yes"  # raw, and off
    assert "GET /api/models/openai/clip-vit-base-patch16/revision/v1" in hub.asked


def test_a_gated_model_needs_a_token_which_is_written_nowhere(
    openai_hub: Hub, tmp_path: Path
) -> None:
    openai_hub.repositories[OPENAI["CLIP_MODEL_NAME"]].gated = True
    variables = {**OPENAI, "MODELS_DIR": tmp_path / "models", "HF_HOME": tmp_path / "home"}
    without = run(openai_hub.url, **variables)
    assert_failed(without, "is gated: accept its terms")
    assert "HF_TOKEN" in without.stderr
    assert not (tmp_path / "models").exists()

    answer = run(openai_hub.url, HF_TOKEN=TOKEN, **variables)
    assert answer.returncode == 0, answer.stderr
    assert openai_hub.tokens == {TOKEN}
    assert TOKEN not in answer.stderr + answer.stdout
    assert not any(TOKEN.encode() in raw for raw in content(tmp_path).values())


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
        load(tmp_path / "models").encode_text(["a cat"])[0],
        replace(
            text_cases("siglip1", "trained")[0],
            vector=load(GOLDEN / "siglip1").encode_text(["a cat"])[0],
        ),
    )
    assert content(tmp_path / "source") == before


def test_a_folder_of_another_family_is_left_alone(hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "siglip", tmp_path, dirs_exist_ok=True)
    before = content(tmp_path)

    assert_failed(run(hub.url, MODELS_DIR=tmp_path, **OPENAI), "already holds another family")
    assert content(tmp_path) == before


def test_what_lies_beside_the_model_stays_and_the_same_family_is_replaced(
    hub: Hub, tmp_path: Path
) -> None:
    shutil.copytree(GOLDEN / "metaclip2", tmp_path, dirs_exist_ok=True)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".download-killed").mkdir()
    assert run(hub.url, MODELS_DIR=tmp_path, **OPENAI).returncode == 0

    assert load(tmp_path).info.family == "OpenAI CLIP"
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not list(tmp_path.glob(".download-*"))


# What breaks on the way.


@pytest.mark.parametrize("there", ["nothing", "a model"])
def test_a_killed_download_changes_nothing_and_the_next_one_cleans_up(
    openai_hub: Hub, tmp_path: Path, there: str
) -> None:
    if there == "a model":
        shutil.copytree(GOLDEN / "openai", tmp_path, dirs_exist_ok=True)
    before = content(tmp_path)
    openai_hub.stalls_in = "pytorch_model.bin"
    process = subprocess.Popen(
        [sys.executable, ROOT / "download.py"],
        env=surroundings(openai_hub.url, MODELS_DIR=tmp_path, **OPENAI),
        stderr=subprocess.DEVNULL,
    )
    assert openai_hub.stalled.wait(60)
    process.send_signal(signal.SIGKILL)
    process.wait()

    (leftover,) = tmp_path.glob(".download-*")
    assert content(leftover)  # it was killed in the middle
    whole = {name: raw for name, raw in content(tmp_path).items() if leftover.name not in name}
    assert whole == before
    if there == "nothing":
        with pytest.raises(ModelFolderError, match="No model in"):
            detect(tmp_path)
        openai_hub.stalls_in = None
        openai_hub.released.set()
        assert run(openai_hub.url, MODELS_DIR=tmp_path, **OPENAI).returncode == 0
        assert not leftover.exists()
        assert detect(tmp_path).family == "openai"


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


def test_code_that_a_model_borrows_from_another_comes_along_if_it_is_trusted(
    tmp_path: Path,
) -> None:
    """A text model whose module lies in another repository, as jina's and nomic's do."""
    text = Repository.of_folders(GOLDEN / "sentence_transformers_multilingual/text")
    modules = json.loads(b"".join(text.files["modules.json"].read()))
    print(modules)

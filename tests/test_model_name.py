"""Which model runs: its name and commit, wherever a service says them."""

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from backends.folder import ModelName, detect
from tests.golden_texts import GOLDEN_TEXTS
from tests.service import running

COMMIT = "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"


def folder_of(root: Path, record: Any = None) -> Path:
    (root / "model").mkdir(parents=True)
    if record is not None:
        (root / "download.json").write_text(json.dumps(record))
    return root


def fetched(*names: tuple[str, str], pretrained: str = "") -> dict[str, Any]:
    request = {**dict(names), "pretrained": pretrained, "trust_remote_code": "false"}
    return {"request": request, "commits": {"org/name": COMMIT, "org/tower": "1"}, "bytes": {}}


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (fetched(("MODEL_NAME", "BAAI/bge-m3@")), "BAAI/bge-m3"),
        (fetched(("SIGLIP_MODEL_NAME", "google/siglip2@main")), "google/siglip2"),
        (fetched(("CLIP_MODEL_NAME", "clip@"), ("TEXT_MODEL_NAME", "clip@")), "clip"),
        (fetched(("CLIP_MODEL_NAME", "clip@"), ("TEXT_MODEL_NAME", "org/xlm@")), "clip-org/xlm"),
        (fetched(("OPEN_CLIP_MODEL_NAME", "ViT-B-16@"), pretrained="laion"), "ViT-B-16-laion"),
    ],
)
def test_a_model_is_called_as_it_was_fetched(
    record: dict[str, Any], name: str, tmp_path: Path
) -> None:
    assert detect(folder_of(tmp_path, record)).name == ModelName(name, COMMIT)


@pytest.mark.parametrize("record", [None, [], {"request": 3, "commits": {}}, fetched()])
def test_one_that_nobody_fetched_is_called_like_its_folder(record: Any, tmp_path: Path) -> None:
    assert detect(folder_of(tmp_path / "my-model", record)).name == ModelName("my-model")


def test_one_in_a_hub_cache_is_called_as_there(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / "model" / "model_name").write_text("org/name")

    assert detect(folder).name == ModelName("org/name")


@pytest.mark.parametrize(("setting", "name"), [("", "org/fetched"), ("ours", "ours")])
def test_the_name_is_reported_everywhere(setting: str, name: str, tmp_path: Path) -> None:
    root = tmp_path / "models"
    shutil.copytree(GOLDEN_TEXTS / "model2vec", root)
    (root / "download.json").write_text(json.dumps(fetched(("MODEL_NAME", "org/fetched@"))))
    log = tmp_path / "log"
    with running(log, MODELS_DIR=root, SERVED_MODEL_NAME=setting) as service:
        url = f"http://127.0.0.1:{service.port}"
        reported = httpx.get(f"{url}/meta").json()["service"]
        (listed,) = httpx.get(f"{url}/v1/models").json()["data"]
        answered = httpx.post(f"{url}/v1/embeddings", json={"input": "a"}).json()["model"]
        metrics = httpx.get(f"{url}/metrics").text

    assert (reported["model"], reported["revision"], listed["id"], answered) == (
        name,
        COMMIT,
        name,
        name,
    )
    (line,) = [one for one in metrics.splitlines() if one.startswith("inference_model_info{")]
    assert f'model="{name}"' in line
    assert f'revision="{COMMIT}"' in line
    assert f"Loaded {name} of commit {COMMIT} (model2vec):" in log.read_text()

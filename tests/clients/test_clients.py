"""The clients of each wire, each in a process of its own, against the running service.

`make test-clients` installs them, into `build/clients`, and runs this.
"""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.service import ROOT, Service, running

pytestmark = [pytest.mark.clients, pytest.mark.timeout(120)]

HERE = Path(__file__).parent
INSTALLED = ROOT / "build/clients"
SAMPLES = ROOT / "demo/samples"
CLIENTS = [
    ("ask_openai.py", "base64"),
    ("ask_openai.py", "float"),
    ("ask_openai.py", "async"),
    ("ask_openai.js", "base64"),
    ("ask_openai.js", "float"),
    ("ask_langchain.py", ""),
    ("ask_llama_index.py", ""),
    ("ask_litellm.py", ""),
]
OF_TEXTS = [
    ("ask_langchain.py", "", "/v1"),
    ("ask_ollama.py", "with tag", ""),
    ("ask_ollama.py", "without tag", ""),
    ("ask_langchain_ollama.py", "demo", ""),
    ("ask_langchain_ollama.py", "demo:latest", ""),
    ("ask_langchain_huggingface.py", "", ""),
    ("ask_langchain_huggingface.py", "", "/embed"),
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("clients") / "log"
    with running(log, MODELS_DIR=ROOT / "demo/models") as service:
        yield service


def asking(
    service: Service, client: str, way: str, asked: Any = None, path: str = "/v1", user: str = ""
) -> Any:
    """Let a client ask below a path, as a user with a password, and return what it got."""
    is_python = client.endswith(".py")
    programs = INSTALLED / "venv/bin"
    interpreter = ["python", "-W", "ignore"] if is_python else ["node"]
    paths = {"PYTHONPATH": str(ROOT), "NODE_PATH": str(INSTALLED / "node_modules")}
    process = subprocess.run(
        [
            programs / interpreter[0],
            *interpreter[1:],
            HERE / client,
            f"http://{user}127.0.0.1:{service.port}{path}",
            way,
        ],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env={**os.environ, **paths, "HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0"},
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def samples() -> tuple[list[str], list[str]]:
    """Return images as data URLs, and the caption of each."""
    entries = json.loads((SAMPLES / "samples.json").read_text())
    files = [(SAMPLES / entry["file"]).read_bytes() for entry in entries]
    urls = [f"data:image/png;base64,{base64.b64encode(file).decode()}" for file in files]
    return urls, [entry["caption"] for entry in entries]


@pytest.mark.parametrize(("client", "way"), CLIENTS)
def test_each_image_is_found_by_its_caption(service: Service, client: str, way: str) -> None:
    documents, queries = map(np.array, asking(service, client, way, samples()))

    assert (queries @ documents.T).argmax(axis=1).tolist() == list(range(len(documents)))
    np.testing.assert_allclose(np.linalg.norm(documents, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(("client", "way", "path"), OF_TEXTS)
def test_texts_have_the_vectors_of_vectorize(
    service: Service, client: str, way: str, path: str
) -> None:
    _, captions = samples()
    documents, queries = map(np.array, asking(service, client, way, [captions, captions[:2]], path))
    expected = np.array(service.vectorize(texts=captions)[1]["textVectors"])

    for given, vectors in ((documents, expected), (queries, expected[:2])):
        cosines = (given * vectors).sum(axis=1)
        cosines /= np.linalg.norm(given, axis=1) * np.linalg.norm(vectors, axis=1)
        assert cosines.min() >= 0.99999


def test_a_token_in_the_address_lets_in_and_is_not_in_the_log(tmp_path: Path) -> None:
    _, captions = samples()
    log, token = tmp_path / "log", "s3cret"
    settings = {"AUTHENTICATION_ALLOWED_TOKENS": token, "LOG_LEVEL": "debug"}
    with running(log, MODELS_DIR=ROOT / "demo/models", **settings) as service:
        way = "demo"
        documents, _ = asking(
            service, "ask_langchain_ollama.py", way, [captions, []], "", f"any:{token}@"
        )

    assert len(documents) == len(captions)
    assert token not in log.read_text()


@pytest.mark.parametrize("client", ["ask_openai.py", "ask_openai.js"])
def test_what_is_refused_for_a_while_is_asked_again(tmp_path: Path, client: str) -> None:
    images, _ = samples()
    slow = (sys.executable, "-m", "tests.slow_service")
    with running(tmp_path / "log", slow, MAX_QUEUE_ITEMS=2) as service:
        (vectors,) = asking(service, client, "async", [images])
        metrics = service.metrics()

    assert len(vectors) == len(images)
    assert 'inference_requests_total{code="429",endpoint="/v1/embeddings"}' in metrics
    assert f'{{code="200",endpoint="/v1/embeddings"}} {len(images)}.0' in metrics


def test_token_ids_are_refused_with_what_to_do(service: Service) -> None:
    sentence, param = asking(service, "ask_openai.py", "token ids")

    assert param == "input"
    assert "check_embedding_ctx_length=False" in sentence


def test_the_model_is_listed(service: Service) -> None:
    listed, retrieved = asking(service, "ask_openai.py", "models")

    assert listed == retrieved == "demo"

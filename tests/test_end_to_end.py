"""`make run`, as a new user meets it: captions typed by hand find their drawn images."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.image_files import base64_of
from tests.service import ROOT, Service, running

SAMPLES = ROOT / "demo/samples"
# `make run` itself, with this test's own Python in place of an install.
MAKE_RUN = (
    "make",
    "run",
    "-o",
    ".venv/serving",
    "PORT={port}",
    f"VENV={Path(sys.executable).parent}",
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("demo") / "log", MAKE_RUN) as service:
        yield service


def unit(vectors: list[list[float]]) -> np.ndarray:
    array = np.array(vectors)
    scaled: np.ndarray = array / np.linalg.norm(array, axis=1, keepdims=True)
    return scaled


def test_captions_find_their_images_through_the_running_service(service: Service) -> None:
    samples = json.loads((SAMPLES / "samples.json").read_text())
    captions = [sample["caption"] for sample in samples]
    images = [base64_of((SAMPLES / sample["file"]).read_bytes()) for sample in samples]
    status, answer = service.vectorize(texts=captions, images=images)

    assert status == 200
    cosines = unit(answer["textVectors"]) @ unit(answer["imageVectors"]).T
    assert cosines.argmax(axis=1).tolist() == list(range(len(samples)))
    assert cosines.argmax(axis=0).tolist() == list(range(len(samples)))


def test_the_demo_is_named_as_a_demo(service: Service) -> None:
    assert service.request("GET", "/meta")[1]["service"]["demo"] is True
    assert "the demo model" in service.log.read_text()

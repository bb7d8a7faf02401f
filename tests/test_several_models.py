"""Real models in one process: each answers as the same model does alone, whatever happens."""

import http.client
import itertools
import json
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden_cases import GOLDEN
from tests.golden_rerankers import GOLDEN_RERANKERS
from tests.golden_texts import GOLDEN_TEXTS
from tests.image_files import base64_of, plain
from tests.service import LAUNCHER, Service, ask, run_to_end, running
from tests.several import Texts
from tests.several_service import DEADLY, FRAGILE, SIZE

MODELS = {
    "clip": GOLDEN / "openai",
    "siglip": GOLDEN / "siglip",
    "text": GOLDEN_TEXTS / "bert",
    "table": GOLDEN_TEXTS / "model2vec",
    "rerank": GOLDEN_RERANKERS / "bert",
}
WORDS = ("red", "small", "bread", "a day", "How", "boat", "is best.", "Flour, water, salt.")
TEXTS = [" ".join(pair) for pair in itertools.permutations(WORDS, 2)]
NO_NAMES = ("..", "%2e%2e", "Clip", "a" * 300, "c%00", "README.md")
ON_DEMAND = {"MODELS_ON_DEMAND": "1", "DEFAULT_MODEL": "clip,text"}
IMAGES = [base64_of(plain((10 * i, 255 - i, i), size=(40 + i, 50))) for i in range(8)]


def bodies_of(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The requests that a model is asked, and their routes."""
    for text in TEXTS:
        if name == "rerank":
            yield "/rerank", {"query": text, "documents": [text, "A boat."]}
        else:
            yield "/vectorize", {"texts": [text]}
            yield "/vectors", {"text": text}
    for image in IMAGES if name in {"clip", "siglip"} else ():
        yield "/vectorize", {"images": [image], "texts": ["a"]}


def numbers_in(answer: Any) -> np.ndarray:
    """All vectors or scores of an answer, in its order."""
    if "scores" in answer:
        return np.array([one["score"] for one in answer["scores"]])
    if "vector" in answer:
        return np.array(answer["vector"])
    return np.array(answer["textVectors"] + answer["imageVectors"]).ravel()


Answers = Mapping[tuple[str, str, str], np.ndarray]  # by model, route and body


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What each model answers when it is served alone."""
    answers = {}
    for name, folder in MODELS.items():
        log = tmp_path_factory.mktemp("alone") / "log"
        with running(log, MODELS_DIR=folder) as service, service.connect() as connection:
            for route, body in bodies_of(name):
                status, answer = ask(connection, "POST", route, body, {})
                assert status == 200, answer
                answers[name, route, json.dumps(body)] = numbers_in(answer)
    return answers


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    root.mkdir()
    for name, folder in MODELS.items():
        (root / name).symlink_to(folder)
    (root / "README.md").write_text("no model")
    return root


@pytest.fixture
def fragile(root: Path) -> Path:
    """A folder without a configuration, beside those of the models."""
    folder = root / FRAGILE / "model"
    folder.mkdir(parents=True)
    return folder


@dataclass
class Crowd:
    """Clients that ask all models at once, and check each answer."""

    service: Service
    alone: Answers
    stop: threading.Event = field(default_factory=threading.Event)
    asked: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    may_ask: threading.Event = field(default_factory=threading.Event)
    may_refuse: bool = False  # with 503, as models are loaded on demand
    stopping: bool = False

    def __post_init__(self) -> None:
        self.may_ask.set()

    @contextmanager
    def asking(self, count: int) -> Iterator["Crowd"]:
        """Let clients ask; when the block is left, they stop."""
        clients = [threading.Thread(target=self.run, args=(n,)) for n in range(count)]
        for client in clients:
            client.start()
        try:
            yield self
        finally:
            self.stop.set()
            self.may_ask.set()
            for client in clients:
                client.join(timeout=60)
        assert not any(client.is_alive() for client in clients)

    def end_service(self) -> int:
        """Stop the service while the clients ask; return its exit status."""
        self.stopping = True
        self.service.process.send_signal(signal.SIGTERM)
        return self.service.process.wait(timeout=60)

    def run(self, number: int) -> None:
        turn = random.Random(number)
        everything = list(self.alone.items())
        while not self.stop.is_set():
            self.may_ask.wait()
            kind = turn.choice(["model", "model", "model", "body", "fragile", "nothing"])
            try:
                self._ask(kind, turn, everything)
            except (OSError, http.client.HTTPException) as error:
                if self.stopping:
                    return
                self.faults.append(f"{kind}: {error!r}")
            self.asked[kind] += 1

    def _ask(self, kind: str, turn: random.Random, everything: list[Any]) -> None:
        (name, route, body), expected = turn.choice(everything)
        path, sent = f"/m/{name}{route}", json.loads(body)
        if kind == "body" and route != "/rerank":  # with a model it is another API's
            path, sent = route, {**sent, "model": name}
        elif kind == "fragile":
            text = turn.choice(TEXTS)
            path, sent, expected = f"/m/{FRAGILE}/vectors", {"text": text}, None
        elif kind == "nothing":
            path = f"/m/{turn.choice(NO_NAMES)}/meta"
        status, answer = self.service.request("POST", path, sent)
        self._check(kind, status, answer, sent, expected)

    def _check(self, kind: str, status: int, answer: Any, sent: Any, expected: Any) -> None:
        if kind == "nothing":
            is_right = status == 404
        elif kind == "fragile" and status != 200:
            is_right = status in {500, 503}
        elif kind == "fragile":
            is_right = np.allclose(answer["vector"], Texts(FRAGILE).vector_of(sent["text"]))
        else:
            is_right = status == 200 and np.allclose(numbers_in(answer), expected, atol=2e-5)
        if status == 503 and self.may_refuse and kind != "nothing":
            self.refused[kind] += 1
            is_right = "error" in answer
        if not is_right:
            self.faults.append(f"{kind}, {sent}: {status}, {str(answer)[:200]}")


@pytest.mark.timeout(900)  # the first test converts what is not converted yet
def test_whatever_happens_every_answer_is_that_of_its_model(
    root: Path, fragile: Path, alone: Answers, tmp_path: Path
) -> None:
    """Bad names, a model that dies, folders that vanish, and a stop, while all models are asked."""
    program = (sys.executable, "-m", "tests.several_service")
    (fragile / "config.json").write_text(json.dumps({"model_type": "bert"}))
    log = tmp_path / "log"
    with (
        running(log, program, MODELS_DIR=root, DEFAULT_MODEL="clip,text") as service,
        Crowd(service, alone).asking(8) as crowd,
    ):
        time.sleep(4)
        deadly = service.request("POST", f"/m/{FRAGILE}/vectors", {"text": DEADLY})
        for name in ("text", "clip"):
            (root / name).unlink()
        time.sleep(4)
        probes = {
            path: service.request("GET", f"{path}/.well-known/{probe}")[0]
            for path in ("", *(f"/m/{name}" for name in (*MODELS, FRAGILE)))
            for probe in ("live", "ready")
        }
        metrics = service.metrics()
        ended = crowd.end_service()

    assert crowd.faults == []
    assert ended == 0
    assert deadly[0] == 500
    assert min(crowd.asked[kind] for kind in ("model", "body", "fragile", "nothing")) > 10
    assert {path for path, status in probes.items() if status == 503} == {"", f"/m/{FRAGILE}"}
    assert f"Skipped in {root}, as it is no model: 'README.md'" in log.read_text()
    for name in MODELS.keys() - {"rerank"}:
        counted = f'inference_requests_total{{code="200",endpoint="/vectorize",model="{name}"}}'
        assert counted in metrics


def test_several_models_are_checked_without_loading_one(root: Path) -> None:
    command = [*LAUNCHER, "--check"]
    fine = run_to_end(command, MODELS_DIR=root, DEFAULT_MODEL="clip,text")
    without_default = run_to_end(command, MODELS_DIR=root)
    (root / FRAGILE / "model").mkdir(parents=True)
    broken = run_to_end(command, MODELS_DIR=root, DEFAULT_MODEL="clip,text")

    assert (fine.returncode, fine.stdout.count("OK: ")) == (0, len(MODELS)), fine.stderr
    assert without_default.returncode == broken.returncode == 1
    assert "DEFAULT_MODEL: several models answer POST /" in without_default.stderr
    assert f"{FRAGILE}/model" in broken.stderr


def test_a_start_names_the_model_that_it_cannot_load(root: Path, fragile: Path) -> None:
    ended = run_to_end(LAUNCHER, MODELS_DIR=root, DEFAULT_MODEL="clip,text")

    assert ended.returncode == 1
    assert f"Model {FRAGILE}: {fragile}/config.json is missing" in ended.stderr


def test_the_log_tells_of_each_model(root: Path, tmp_path: Path) -> None:
    settings = {"DEFAULT_MODEL": "clip,text", "PRECISION": "float32"}
    with running(tmp_path / "log", MODELS_DIR=root, **settings) as service:
        spaces = {name: space_of(service, name) for name in MODELS}
    told = (tmp_path / "log").read_text()

    assert len(set(spaces.values())) == len(MODELS)
    for name, space in spaces.items():
        assert f"Loaded {name} (" in told
        assert space in told


def space_of(service: Service, name: str) -> str:
    described = service.request("GET", f"/m/{name}/meta")[1]["service"]
    assert described["model"] == name
    return str(described["vector_space"] or described["score_space"])


# --- on demand


def loaded_in(service: Service) -> set[str]:
    models = service.request("GET", "/meta")[1]["service"]["models"]
    return {one["name"] for one in models if one["loaded"]}


def resident(service: Service) -> float:
    (line,) = [
        line
        for line in service.metrics().splitlines()
        if line.startswith("process_resident_memory_bytes ")
    ]
    return float(line.split()[1])


@pytest.mark.timeout(300)
def test_models_that_come_and_go_answer_the_same_and_leave_no_memory(
    root: Path, alone: Answers, tmp_path: Path
) -> None:
    settings = {**ON_DEMAND, "MODELS_IDLE_S": "0.2"}
    settings["MALLOC_ARENA_MAX"] = "1"  # else their number depends on what else the machine does
    some = {name: next(key for key in alone if key[0] == name) for name in MODELS}
    after_cycle = []
    unloads = 0
    with running(tmp_path / "log", MODELS_DIR=root, **settings) as service:
        assert loaded_in(service) == set()
        for _ in range(12):
            for name, (_, route, body) in some.items():
                status, answer = service.request("POST", f"/m/{name}{route}", json.loads(body))
                assert status == 200, answer
                np.testing.assert_allclose(
                    numbers_in(answer), alone[some[name]], atol=2e-5, err_msg=name
                )
            unloads += len(MODELS)
            while (tmp_path / "log").read_text().count(" was unloaded ") < unloads:
                time.sleep(0.05)  # the line comes after the memory was given back
            after_cycle.append(resident(service))

    assert after_cycle[11] <= 1.05 * after_cycle[1], after_cycle


@pytest.mark.timeout(900)  # as of the other test with all of `alone`
def test_whatever_happens_to_models_on_demand_every_answer_is_that_of_its_model(
    root: Path, fragile: Path, alone: Answers, tmp_path: Path
) -> None:
    """Half of the models have room: they come and go, die, vanish, and are loaded at the stop."""
    program = (sys.executable, "-m", "tests.several_service")
    (fragile / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (root / FRAGILE / "settings.env").write_text("RUNTIME=torch")  # so nothing converts it
    settings = {**ON_DEMAND, "MODELS_MEMORY_BYTES": str(3 * SIZE), "MODELS_IDLE_S": "0.5"}
    log = tmp_path / "log"
    with (
        running(log, program, MODELS_DIR=root, **settings, REQUEST_TIMEOUT_S="20") as service,
        Crowd(service, alone, may_refuse=True).asking(6) as crowd,
    ):
        for _ in range(3):
            time.sleep(3)
            # It may rest after a death or a load that failed.
            while service.request("POST", f"/m/{FRAGILE}/vectors", {"text": DEADLY})[0] != 500:
                time.sleep(0.05)
        (root / "table").unlink()
        crowd.may_ask.clear()
        time.sleep(3)  # idle models go
        crowd.may_ask.set()
        time.sleep(3)
        # It is ready until a request has tried to load it.
        while (gone := service.request("GET", "/m/table/.well-known/ready")[0]) == 204:
            time.sleep(0.05)
        metrics = service.metrics()
        ended = crowd.end_service()

    assert crowd.faults == []
    assert ended == 0
    assert gone == 503
    assert crowd.asked["model"] > crowd.refused["model"] + 20
    for counted in (
        *(f'loads_total{{model="{name}",result="loaded"}}' for name in (*MODELS, FRAGILE)),
        f'loads_total{{model="{FRAGILE}",result="failed"}}',
        'loads_total{model="table",result="failed"}',
        # A dead model may be idle, or in the way of another, before it is found to be dead.
        f'unloads_total{{model="{FRAGILE}",reason="[a-z]+"}}',
        'unloads_total{model="[a-z]+",reason="memory"}',
        'unloads_total{model="[a-z]+",reason="idle"}',
    ):
        values = re.findall(f"^inference_model_{counted} (.*)", metrics, re.MULTILINE)
        assert sum(map(float, values)) > 0, counted


@pytest.mark.timeout(120)
def test_a_stop_during_a_load_ends_at_once(root: Path, tmp_path: Path) -> None:
    with running(tmp_path / "log", MODELS_DIR=root, **ON_DEMAND) as service:
        outcome: list[Any] = []

        def load() -> None:
            try:
                outcome.append(service.vectorize(texts=["a"])[0])
            except (OSError, http.client.HTTPException) as error:
                outcome.append(error)

        client = threading.Thread(target=load)
        client.start()
        time.sleep(0.2)
        service.process.send_signal(signal.SIGTERM)
        ended = service.process.wait(timeout=60)
        client.join(timeout=10)

    assert ended == 0
    assert outcome in ([200], [503])


@pytest.mark.timeout(120)
def test_a_folder_that_vanishes_is_a_load_that_fails(root: Path, tmp_path: Path) -> None:
    with running(tmp_path / "log", MODELS_DIR=root, **ON_DEMAND) as service:
        (root / "text").unlink()
        gone = service.request("POST", "/m/text/vectors", {"text": "a"})
        while "being converted" in gone[1]["error"]:  # the service is just looking at the folder
            time.sleep(0.05)
            gone = service.request("POST", "/m/text/vectors", {"text": "a"})
        ready = service.request("GET", "/m/text/health")[0]
        other = service.vectorize(texts=["a"])[0]

    assert (gone[0], ready, other) == (503, 503, 200)
    assert "model text could not be loaded: MODELS_DIR: there is no folder" in gone[1]["error"]

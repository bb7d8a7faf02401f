"""The contract over a real socket, with a client shaped like Weaviate's."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from app import KEEP_ALIVE_S
from tests.golden_cases import (
    GOLDEN,
    LAYOUTS,
    Case,
    assert_same,
    image_cases,
    recorded,
    text_cases,
)
from tests.image_files import base64_of
from tests.service import LAUNCHER, ROOT, Service, ask, environment, free_port, run_to_end, running

LOOPBACK_ONLY = str(Path(__file__).parent / "loopback_only")
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("service") / "log"
    settings: dict[str, object] = {"MODELS_DIR": GOLDEN / "openai", "PYTHONPATH": LOOPBACK_ONLY}
    with running(log, LAUNCHER, **settings, CUDA_PER_PROCESS_MEMORY_FRACTION=0.5) as service:
        yield service


def weaviate_body(case: Case, is_image: bool) -> dict[str, list[str]]:
    """One object a request; a list that would be empty is left out."""
    if not is_image:
        return {"texts": [case.content]}
    return {"images": [base64_of((GOLDEN / "images" / case.content).read_bytes())]}


def test_a_variable_of_the_references_that_means_nothing_here_is_told(service: Service) -> None:
    assert "No effect here, and none is needed" in service.log.read_text()
    assert "CUDA_PER_PROCESS_MEMORY_FRACTION\n" in service.log.read_text()


def test_single_objects_at_a_time_get_each_its_own_vector(service: Service) -> None:
    work = [(case, False) for case in text_cases("openai", "trained")]
    work += [(case, True) for case in image_cases("openai")]

    def client(offset: int) -> None:
        with service.connect() as connection:
            for case, is_image in work[offset:] + work[:offset]:
                body = weaviate_body(case, is_image)
                status, answer = ask(connection, "POST", "/vectorize", body, JSON)
                assert status == 200
                assert answer["textVectors" if is_image else "imageVectors"] == []
                vectors = answer["imageVectors" if is_image else "textVectors"]
                assert_same(np.array(vectors[0], np.float32), case)

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(client, range(16))) == [None] * 16


def test_the_documented_curl_call_works(service: Service) -> None:
    curl = shutil.which("curl") or pytest.skip("curl is not installed")
    url = f"localhost:{service.port}/vectorize"
    answer = subprocess.run(
        [curl, "-s", "-w", "%{http_code}", url, "-d", '{"texts": ["foo bar"], "images":[]}'],
        capture_output=True,
        text=True,
        check=True,
    )

    assert answer.stdout.startswith('{"textVectors":[[')
    assert answer.stdout.endswith('"imageVectors":[]}200')


def test_json_sent_as_a_form_is_read(service: Service) -> None:
    body = b'{"texts": ["foo bar"], "images":[]}'
    form = {"Content-Type": "application/x-www-form-urlencoded"}

    assert service.request("POST", "/vectorize", body, form)[0] == 200


def test_an_idle_connection_outlives_the_default_of_uvicorn(service: Service) -> None:
    with service.connect() as connection:
        assert ask(connection, "GET", "/meta", None, {})[0] == 200
        time.sleep(6)  # uvicorn would close it after 5

        assert ask(connection, "GET", "/meta", None, {})[0] == 200
    assert KEEP_ALIVE_S > 90


def test_an_error_is_json_with_a_sentence(service: Service) -> None:
    assert service.vectorize(images=["?"]) == (
        422,
        {"error": "images[0]: not base64; expected the base64 of an image file"},
    )
    assert service.request("GET", "/nothing") == (404, {"error": "GET /nothing: Not Found"})


def test_meta_holds_what_the_reference_answers(service: Service) -> None:
    answer = service.request("GET", "/meta")[1]
    expected = recorded("openai")["meta"]

    for name in ("model_type", "projection_dim"):
        assert answer[name] == expected[name]
    for tower in ("text_config", "vision_config"):
        for name in ("hidden_size", "num_hidden_layers", "model_type"):
            assert answer[tower][name] == expected[tower][name]
    assert answer["service"]["family"] == "OpenAI CLIP"


def test_uvicorn_itself_starts_the_same_app(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "uvicorn", "app:app", "--port", "{port}")
    with running(tmp_path / "log", command, MODELS_DIR=GOLDEN / "siglip1") as service:
        status, answer = service.vectorize(texts=["a photo of a cat"])

    assert status == 200
    vector = np.array(answer["textVectors"][0], np.float32)
    assert_same(vector, text_cases("siglip1", "trained")[0])


def test_every_family_loads_and_encodes_without_a_network() -> None:
    program = (
        "import config; config.forbid_hub_access()\n"
        "from tests.golden_cases import LAYOUTS, embed_texts, golden_model\n"
        "for layout in LAYOUTS: embed_texts(golden_model(layout, 'trained'), ['a'])\n"
        "import socket\n"
        "try: socket.create_connection(('192.0.2.1', 80))\n"
        "except AssertionError: print('guarded', len(LAYOUTS))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment(PYTHONPATH=f"{LOOPBACK_ONLY}:{ROOT}"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert answer.stdout.strip().endswith(f"guarded {len(LAYOUTS)}"), answer.stderr


def failed_start(**settings: object) -> tuple[int, str]:
    answer = run_to_end(LAUNCHER, **settings)
    return answer.returncode, answer.stdout + answer.stderr


@pytest.mark.parametrize("command", [LAUNCHER, (sys.executable, "-m", "uvicorn", "app:app")])
def test_a_misspelt_setting_is_told_by_each_way_to_start(command: tuple[str, ...]) -> None:
    env = environment(MODELS_DIR="nowhere", MAX_BATCHSIZE="8", ENABLE_CUDA="yes", PORT=free_port())
    answer = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False
    )

    assert answer.returncode != 0
    for sentence in ("MAX_BATCHSIZE is no setting", "ENABLE_CUDA is off: of all values"):
        assert answer.stderr.count(sentence) == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"MODELS_DIR": "nowhere"}, "MODELS_DIR: there is no folder"),
        ({"MODELS_DIR": GOLDEN / "openai/openai_clip"}, "No model in"),
        ({"PORT": "many"}, "Cannot start: PORT: a whole number, such as 8080, and not 'many'"),
        (
            {"IMAGE_FORMATS": "JPG", "MODELS_DIR": "nowhere"},
            "IMAGE_FORMATS: no format is called JPG",
        ),
        ({"MODELS_DIR": GOLDEN / "openai", "ENABLE_CUDA": "1", "CUDA_CORE": "cuda:99"}, "cuda:99"),
    ],
)
def test_a_start_that_cannot_work_ends_with_one_sentence_and_code_1(
    settings: dict[str, object], sentence: str
) -> None:
    code, output = failed_start(**settings)

    assert code == 1
    assert sentence in output
    assert "Traceback" not in output

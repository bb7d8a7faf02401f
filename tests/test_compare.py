"""`compare.py` as people run it: against services, and a stand-in for a container of old."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from compare import Reply, Row, Sample
from tests.golden_cases import GOLDEN
from tests.golden_rerankers import GOLDEN_RERANKERS
from tests.golden_texts import GOLDEN_TEXTS
from tests.image_files import plain
from tests.service import ROOT, Service, free_port, running

Answer = tuple[int, Any]


class Verdict(NamedTuple):
    status: int
    rows: list[str]
    sentences: list[str]


def compare(old: str, new: str, *options: str) -> Verdict:
    command = [sys.executable, "-E", "-s", "compare.py", old, new, *options]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not run.stderr, run.stderr
    table, end, conclusion = run.stdout.partition("\n\n")
    if not end:  # nothing was compared, so there is no table
        table, conclusion = "", table
    return Verdict(run.returncode, table.splitlines()[1:], conclusion.splitlines())


def url(service: Service, credentials: str = "") -> str:
    return f"http://{credentials}127.0.0.1:{service.port}"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("clip") / "log"
    with running(log, MODELS_DIR=GOLDEN / "openai") as service:
        yield service


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("bert") / "log"
    with running(log, MODELS_DIR=GOLDEN_TEXTS / "bert") as service:
        yield service


def test_the_same_model_keeps_a_collection(clip: Service, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "more").mkdir(parents=True)
    (folder / "lines.txt").write_text("one line of mine\n\nanother one\n")
    (folder / "more" / "green.PNG").write_bytes(plain((0, 200, 0)))
    (folder / "notes.md").write_text("neither text nor image")
    token = {"AUTHENTICATION_ALLOWED_TOKENS": "a+token"}
    with running(tmp_path / "log", MODELS_DIR=GOLDEN / "openai", **token) as other:
        new = url(other, credentials="weaviate:a%2Btoken@")
        verdict = compare(url(clip), new, "--folder", str(folder))

    assert verdict.status == 0
    assert [sentence.split(":")[0] for sentence in verdict.sentences] == ["texts", "images"]
    assert all("the same vectors: a collection can keep" in one for one in verdict.sentences)
    assert all(row.endswith("200  200  same") for row in verdict.rows)
    assert {row.split()[0] for row in verdict.rows} == {"/vectorize", "/vectors", "/vectors,"}
    for name in ("one line of mine", "another one", "more/green.PNG"):
        assert any(f" {name} " in row for row in verdict.rows)
    assert not any("notes" in row or "neither" in row for row in verdict.rows)


def test_another_model_must_be_imported_anew(bert: Service, tmp_path: Path) -> None:
    with running(tmp_path / "log", MODELS_DIR=GOLDEN_TEXTS / "distilbert") as other:
        verdict = compare(url(bert), url(other))

    assert verdict.status == 3
    (sentence,) = verdict.sentences
    assert "texts: other vectors: import everything again" in sentence
    assert all("DIFFERENT" in row for row in verdict.rows if " text " in row)
    # Neither reads images: one of them is enough to see it.
    images = [row for row in verdict.rows if " image " in row]
    assert [row.split()[0] for row in images] == ["/vectorize", "/vectors"]
    assert all(row.endswith("422  422  both fail") for row in images)


def test_what_the_collection_sets_goes_along(bert: Service) -> None:
    verdict = compare(url(bert), url(bert), "--config", '{"pooling_strategy": "max"}')

    of_vectors = [row for row in verdict.rows if row.startswith("/vectors") and " text " in row]
    assert of_vectors
    assert all("both fail" in row for row in of_vectors)
    assert verdict.status == 2
    assert verdict.sentences == [
        "Neither answers by /vectors and by /vectors, query: is --config right?"
    ]


@contextmanager
def stand_in(answer: Callable[[str, Any], Answer]) -> Iterator[str]:
    """A container of old: `answer` gets the path and the body of a POST."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, content = answer(self.path, body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_faults_of_the_old_are_no_difference(clip: Service) -> None:
    def as_the_reference(path: str, body: Any) -> Answer:
        if path != "/vectorize":
            return 404, {"detail": "Not Found"}
        if any(len(text) > 100 for text in body.get("texts", ())):
            return 500, {"error": "index out of range in self"}
        return clip.request("POST", path, body)

    with stand_in(as_the_reference) as old:
        verdict = compare(old, url(clip))

    assert verdict.status == 0
    assert {row.split()[0] for row in verdict.rows} == {"/vectorize"}
    assert sum(row.endswith("500  200  old fails") for row in verdict.rows) == 2
    assert "texts: NEW answers 2 for which OLD has no vectors." in verdict.sentences


def test_what_the_new_one_has_no_vectors_for_is_reported(clip: Service) -> None:
    def without_images(path: str, body: Any) -> Answer:
        fault = {"error": "images[0]: no"}
        return (500, fault) if body.get("images") else clip.request("POST", path, body)

    with stand_in(without_images) as new:
        verdict = compare(url(clip), new)

    assert verdict.status == 4
    reported = "images: NEW has no vectors for 5 that OLD answers: 500 images[0]: no"
    assert reported in verdict.sentences


@pytest.mark.parametrize("side", ["OLD", "NEW"])
@pytest.mark.parametrize(
    "fault",
    [{"error": "a token, please"}, {"error": {"message": "a token, please"}}, "a token, please"],
)
def test_one_that_refuses_ends_it_at_once_with_its_sentence(
    clip: Service, side: str, fault: object
) -> None:
    with stand_in(lambda _path, _body: (401, fault)) as refusing:
        pair = (refusing, url(clip)) if side == "OLD" else (url(clip), refusing)
        verdict = compare(*pair)

    assert verdict.status == 4
    assert len(verdict.rows) == 1
    (sentence,) = verdict.sentences
    assert sentence.startswith(f"{side}, {refusing}, refuses with 401: a token, please. A token")


def test_a_service_that_wants_a_token_is_named_without_the_wrong_one(
    clip: Service, tmp_path: Path
) -> None:
    token = {"AUTHENTICATION_ALLOWED_TOKENS": "right"}
    with running(tmp_path / "log", MODELS_DIR=GOLDEN / "openai", **token) as other:
        verdict = compare(url(clip), url(other, credentials="any:wrong@"))

    assert verdict.status == 4
    assert verdict.sentences[0].startswith(f"NEW, {url(other)}, refuses with 401: ")
    assert "wrong@" not in verdict.sentences[0]


def test_vectors_that_are_close_are_nearly_the_same(clip: Service) -> None:
    def rounded(path: str, body: Any) -> Answer:
        status, answer = clip.request("POST", path, body)
        if path == "/vectorize" and status == 200:
            for vector in answer["textVectors"]:
                vector[0] += 0.01
        return status, answer

    with stand_in(rounded) as new:
        verdict = compare(url(clip), new)

    assert verdict.status == 1
    assert verdict.sentences[0].startswith("texts: nearly the same vectors: searches will hardly")
    assert verdict.sentences[1].startswith("images: the same vectors")


def test_where_nobody_answers_nothing_is_compared(clip: Service) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"

    with stand_in(lambda _path, _body: (404, {})) as other:
        verdicts = compare(nobody, url(clip)), compare(other, url(clip))

    assert [verdict.status for verdict in verdicts] == [2, 2]
    assert verdicts[0].sentences[0].startswith(f"No comparison of {nobody} and ")
    assert verdicts[1].sentences == [
        "Nothing could be compared: OLD answers none of this with a vector."
    ]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--folder", "{mine}/typo"], "{mine}/typo is no folder with lines in *.txt, or images"),
        (["--folder", "{mine}/notes.md"], "{mine}/notes.md is no folder with"),
        (["--folder", "{mine}/empty"], "{mine}/empty is no folder with"),
        (["--folder", "{mine}/latin"], "{mine}/latin/a.txt is not UTF-8: 'utf-8' codec can't"),
        (["--config", "[1]"], "argument --config: invalid json_object value: '[1]'"),
        (["--config", "cls"], "argument --config: invalid json_object value: 'cls'"),
        (["--config", "[]"], "argument --config: invalid json_object value: '[]'"),
        ([], "Port could not be cast to integer value as 'x'"),
    ],
)
def test_what_cannot_be_meant_ends_with_a_sentence(
    tmp_path: Path, options: list[str], sentence: str
) -> None:
    for name in ("empty", "latin"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.md").touch()
    (tmp_path / "latin" / "a.txt").write_bytes("Füchse".encode("latin-1"))
    said = [option.replace("{mine}", str(tmp_path)) for option in options]
    command = [sys.executable, "-E", "-s", "compare.py", "http://a:1", "http://a:x", *said]

    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    expected = sentence.replace("{mine}", str(tmp_path))
    assert run.stderr.splitlines()[-1].startswith(f"compare.py: error: {expected}")
    assert (run.returncode, run.stdout) == (2, "")


@pytest.mark.parametrize(
    ("old", "new", "outcome"),
    [
        ([3, 4], [3, 4.00005], "same"),
        ([3, 4], [3.003, 4.004], "nearly"),  # the same direction, another length
        ([300, 400], [300.001, 400.001], "same"),  # of a long one float32 holds no more
        ([3, 4], [4, 3], "DIFFERENT"),
        ([3, 4], [3, 4, 0], "DIFFERENT"),
        ([0, 0], [0, 0], "same"),  # of a text without a word
        ([0, 0], [3, 4], "DIFFERENT"),
    ],
)
def test_vectors_are_the_same_by_their_direction_and_length(
    old: list[float], new: list[float], outcome: str
) -> None:
    row = Row("/vectors", Sample("text", "a", "a"), Reply(200, old), Reply(200, new))

    assert row.outcome == outcome


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("reranker") / "log"
    folder = GOLDEN_RERANKERS / "bert_new_config"
    with running(log, MODELS_DIR=folder, TEXT_MODE="reference") as service:
        yield service


@pytest.mark.parametrize(
    ("folder", "mode", "status", "sentence"),
    [
        ("bert_new_config", "reference", 0, "scores: the same scores."),
        ("bert_new_config", "trained", 1, "scores: the same order, by other scores: set TEXT_MODE"),
        ("roberta", "reference", 3, "scores: another order, so another model."),
    ],
)
def test_rerankers_are_compared_by_their_scores(
    reranker: Service, tmp_path: Path, folder: str, mode: str, status: int, sentence: str
) -> None:
    models = GOLDEN_RERANKERS / folder
    with running(tmp_path / "log", MODELS_DIR=models, TEXT_MODE=mode) as other:
        verdict = compare(url(reranker), url(other))

    assert verdict.status == status
    assert verdict.sentences[0].startswith(sentence)


def test_an_embedder_in_place_of_a_reranker_has_no_scores(reranker: Service, clip: Service) -> None:
    verdict = compare(url(reranker), url(clip))

    assert verdict.status == 4
    assert verdict.sentences == ["scores: NEW has none where OLD has them."]
